package main

import (
	"errors"
	"net"
	"sync/atomic"
	"syscall"
)

// quantum is the most bytes moved at once. At 90 MB/s a connection wakes up 86 times a second.
const quantum = 1 << 20

const (
	setPipeSize   = 1031 // F_SETPIPE_SZ
	spliceMove    = 1    // SPLICE_F_MOVE
	spliceInstant = 2    // SPLICE_F_NONBLOCK
)

var errEnded = errors.New("the sender has ended")

// pass moves bytes from one connection to the other until it ends or fails. The other side then sees the end too. It
// calls before() with each piece before sending it.
func pass(to, from *net.TCPConn, pace *Pace, count *atomic.Int64, before func()) {
	var pipe [2]int
	if err := syscall.Pipe2(pipe[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
		from.Close()
		to.Close()
		return
	}
	defer syscall.Close(pipe[0])
	defer syscall.Close(pipe[1])
	// The kernel refuses this if the user has many pipes. The default size works too.
	syscall.Syscall(syscall.SYS_FCNTL, uintptr(pipe[1]), setPipeSize, quantum)

	for {
		n, err := fill(pipe[1], from)
		if err != nil {
			break
		}
		before()
		pace.wait(n)
		if err := drain(to, pipe[0], n); err != nil {
			from.Close()
			break
		}
		count.Add(int64(n))
	}
	to.CloseWrite()
}

// fill waits for bytes and moves what has arrived into the pipe, at most a quantum.
func fill(pipe int, from *net.TCPConn) (int, error) {
	raw, err := from.SyscallConn()
	if err != nil {
		return 0, err
	}
	var n int64
	var failure error
	err = raw.Read(func(socket uintptr) bool {
		n, failure = splice(int(socket), pipe, quantum)
		return failure != syscall.EAGAIN
	})
	switch {
	case err != nil:
		return 0, err
	case failure != nil:
		return 0, failure
	case n == 0:
		return 0, errEnded
	}
	return int(n), nil
}

// drain sends all n bytes that are in the pipe.
func drain(to *net.TCPConn, pipe, n int) error {
	raw, err := to.SyscallConn()
	if err != nil {
		return err
	}
	for n > 0 {
		var sent int64
		var failure error
		err = raw.Write(func(socket uintptr) bool {
			sent, failure = splice(pipe, int(socket), n)
			return failure != syscall.EAGAIN
		})
		if err != nil {
			return err
		}
		if failure != nil {
			return failure
		}
		n -= int(sent)
	}
	return nil
}

func splice(from, to, most int) (int64, error) {
	for {
		n, err := syscall.Splice(from, nil, to, nil, most, spliceMove|spliceInstant)
		if err != syscall.EINTR {
			return int64(n), err
		}
	}
}
