package main

import (
	"log"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Link is the proxied connection to one server.
type Link struct {
	server  string
	rate    float64
	latency time.Duration

	up, down, connections atomic.Int64

	mutex      sync.Mutex
	open, peak int64
}

// Counters count what passed since the start. Peak is the most connections open at once since the last read.
type Counters struct {
	Up          int64 `json:"up"`
	Down        int64 `json:"down"`
	Connections int64 `json:"connections"`
	Peak        int64 `json:"peak"`
}

func (link *Link) read() Counters {
	link.mutex.Lock()
	defer link.mutex.Unlock()
	peak := link.peak
	link.peak = link.open
	return Counters{Up: link.up.Load(), Down: link.down.Load(), Connections: link.connections.Load(), Peak: peak}
}

func (link *Link) serve(listener net.Listener) {
	for {
		client, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go link.carry(client.(*net.TCPConn))
	}
}

// carry joins one client's connection to the server until both directions have ended.
func (link *Link) carry(client *net.TCPConn) {
	defer client.Close()
	dialed, err := net.Dial("tcp", link.server)
	if err != nil {
		log.Print(err)
		return
	}
	server := dialed.(*net.TCPConn)
	defer server.Close()
	link.opened(1)
	defer link.opened(-1)

	conversation := &Conversation{latency: link.latency}
	var both sync.WaitGroup
	both.Add(2)
	go func() {
		defer both.Done()
		pass(server, client, &Pace{rate: link.rate}, &link.up, conversation.onRequest)
	}()
	go func() {
		defer both.Done()
		pass(client, server, &Pace{rate: link.rate}, &link.down, conversation.onResponse)
	}()
	both.Wait()
}

func (link *Link) opened(change int64) {
	link.mutex.Lock()
	defer link.mutex.Unlock()
	link.open += change
	if change > 0 {
		link.connections.Add(change)
		link.peak = max(link.peak, link.open)
	}
}
