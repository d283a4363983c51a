// Pacer is a proxy that makes a server on loopback as slow as one on the internet: every connection has its own bandwidth
// in each direction, and every round trip has a latency.
//
//	pacer -rate 90000000 -latency 15ms -control 127.0.0.1:9000 source=127.0.0.1:9001,127.0.0.1:5000 s3=127.0.0.1:9002,127.0.0.1:7070
//
// Bytes pass through a kernel pipe (splice) and never through this process, so the proxy takes little of the CPU time that
// is measured. GET on the control address returns the counters of every link as JSON, and resets the peaks.
package main

import (
	"encoding/json"
	"flag"
	"log"
	"net"
	"net/http"
	"strings"
	"time"
)

func main() {
	rate := flag.Float64("rate", 0, "bytes per second of one connection in one direction")
	latency := flag.Duration("latency", 0, "delay of a request")
	control := flag.String("control", "", "address that serves the counters")
	flag.Parse()
	if *rate <= 0 || *control == "" || flag.NArg() == 0 {
		log.Fatal("usage: pacer -rate BYTES -latency TIME -control ADDRESS NAME=LISTEN,SERVER ...")
	}
	links := make(map[string]*Link)
	for _, argument := range flag.Args() {
		name, addresses, _ := strings.Cut(argument, "=")
		listen, server, ok := strings.Cut(addresses, ",")
		if !ok {
			log.Fatalf("not NAME=LISTEN,SERVER: %s", argument)
		}
		listener, err := net.Listen("tcp", listen)
		if err != nil {
			log.Fatal(err)
		}
		links[name] = &Link{server: server, rate: *rate, latency: *latency}
		go links[name].serve(listener)
	}
	http.HandleFunc("/", func(response http.ResponseWriter, _ *http.Request) {
		counters := make(map[string]Counters, len(links))
		for name, link := range links {
			counters[name] = link.read()
		}
		if err := json.NewEncoder(response).Encode(counters); err != nil {
			log.Print(err)
		}
	})
	server := http.Server{Addr: *control, ReadHeaderTimeout: 5 * time.Second}
	log.Fatal(server.ListenAndServe())
}
