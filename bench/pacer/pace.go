package main

import (
	"sync/atomic"
	"time"
)

// burst is how far a connection may be ahead of its rate: what it did not use in the last milliseconds.
const burst = 5 * time.Millisecond

// Pace is one direction's bandwidth.
type Pace struct {
	rate float64
	next time.Time
}

// wait returns when n bytes more have had their time.
func (pace *Pace) wait(n int) {
	now := time.Now()
	if earliest := now.Add(-burst); pace.next.Before(earliest) {
		pace.next = earliest
	}
	pace.next = pace.next.Add(time.Duration(float64(n) / pace.rate * float64(time.Second)))
	time.Sleep(pace.next.Sub(now))
}

// Conversation knows whose turn it is. The whole round trip is charged to the request: the client cannot tell.
type Conversation struct {
	latency time.Duration
	clients atomic.Bool // the client has spoken last
	begun   atomic.Bool
}

// asked is called before bytes of the client go on: the first ones after an answer take the latency, the very first ones
// twice as much, as the handshake of a new connection does.
func (conversation *Conversation) asked() {
	if conversation.clients.Swap(true) {
		return
	}
	if !conversation.begun.Swap(true) {
		time.Sleep(conversation.latency)
	}
	time.Sleep(conversation.latency)
}

func (conversation *Conversation) answered() {
	conversation.clients.Store(false)
}
