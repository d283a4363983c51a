package main

import (
	"sync/atomic"
	"time"
)

// burst is how far a connection may be ahead of its rate, if it was idle before.
const burst = 5 * time.Millisecond

// Pace limits the bandwidth of one direction.
type Pace struct {
	rate float64
	next time.Time
}

// wait sleeps until n more bytes are within the rate.
func (pace *Pace) wait(n int) {
	now := time.Now()
	if earliest := now.Add(-burst); pace.next.Before(earliest) {
		pace.next = earliest
	}
	pace.next = pace.next.Add(time.Duration(float64(n) / pace.rate * float64(time.Second)))
	time.Sleep(pace.next.Sub(now))
}

// Conversation delays the requests of one connection. A request is delayed by the whole round trip, and its answer not at
// all. The client cannot tell the difference.
type Conversation struct {
	latency time.Duration
	client  atomic.Bool // the client sent the last bytes
	started atomic.Bool
}

// onRequest is called before bytes of the client are passed on. It delays the first bytes after a response by the latency.
// It delays the very first bytes twice, as the handshake of a new connection does.
func (conversation *Conversation) onRequest() {
	if conversation.client.Swap(true) {
		return
	}
	if !conversation.started.Swap(true) {
		time.Sleep(conversation.latency)
	}
	time.Sleep(conversation.latency)
}

func (conversation *Conversation) onResponse() {
	conversation.client.Store(false)
}
