package main

import (
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// timeout ends a request that hangs.
const timeout = 120 * time.Second

// Request is sent as it is, and no redirect is followed. The answer must have this status, digest and length.
type Request struct {
	Method string `json:"method"`
	URL    string `json:"url"`
	Accept string `json:"accept"`
	Status int    `json:"status"`
	Digest string `json:"digest"`
	Length int64  `json:"length"`
}

func sendRequests(job Job) Result {
	// One transport for each client, so that each keeps its own connection.
	clients := make([]*http.Client, job.Clients)
	for number := range clients {
		clients[number] = newClient(1)
	}
	until := time.Now().Add(time.Duration(job.Seconds * float64(time.Second)))
	return measure(job.Clients, func(client, number int) (bool, error) {
		if number >= len(job.Requests) && !time.Now().Before(until) {
			return false, nil
		}
		request := job.Requests[number%len(job.Requests)]
		if err := request.send(clients[client]); err != nil {
			wrong(request.URL, "%v", err)
		}
		return true, nil
	})
}

func (request Request) send(client *http.Client) error {
	response, err := get(client, request.Method, request.URL, request.Accept)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	read, err := io.Copy(io.Discard, response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != request.Status {
		wrong(request.URL, "status %d instead of %d", response.StatusCode, request.Status)
	}
	// distribution sends no digest with a redirect.
	if found := response.Header.Get("Docker-Content-Digest"); found != request.Digest && (found != "" || !isRedirect(response)) {
		wrong(request.URL, "digest %q instead of %s", found, request.Digest)
	}
	if isRedirect(response) {
		if response.Header.Get("Location") == "" {
			wrong(request.URL, "no Location")
		}
		return nil
	}
	if request.Method == http.MethodHead {
		read = response.ContentLength
	}
	if read != request.Length {
		wrong(request.URL, "%d bytes instead of %d", read, request.Length)
	}
	return nil
}

// newClient returns a client with its own connections, at most so many to a server. It follows no redirect.
func newClient(connections int) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			MaxConnsPerHost:     connections,
			MaxIdleConnsPerHost: connections,
			DisableCompression:  true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       timeout,
	}
}

func get(client *http.Client, method, url, accept string) (*http.Response, error) {
	request, err := http.NewRequest(method, url, nil)
	if err != nil {
		return nil, err
	}
	if accept != "" {
		request.Header.Set("Accept", accept)
	}
	return client.Do(request)
}

func isRedirect(response *http.Response) bool {
	return response.StatusCode == http.StatusTemporaryRedirect
}

// counter returns a function that returns 0, 1, 2, … to any number of goroutines.
func counter() func() int {
	var count atomic.Int64
	return func() int { return int(count.Add(1)) - 1 }
}
