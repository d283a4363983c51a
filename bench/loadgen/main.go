// Loadgen sends requests to a registry, or pulls whole images from it, and checks every answer.
//
// It reads one Job as JSON from standard input, and writes one Result as JSON to standard output. An answer that is wrong
// ends the program with status 1 and a message. It uses net/http, as registry clients in Go do.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"sync"
	"syscall"
	"time"
)

// Job is either requests or pulls.
//
// Each of the clients takes the next request or image of the list, as long as there is one. With Seconds the list of
// requests begins again until that time has passed. With Pulls the list of images begins again until there were so many
// pulls.
type Job struct {
	Clients  int       `json:"clients"`
	Seconds  float64   `json:"seconds"`
	Requests []Request `json:"requests"`
	Pulls    int       `json:"pulls"`
	Images   []Image   `json:"images"`
}

// Result has the microseconds of every request or pull, from its begin to its last byte.
//
// Errors are pulls that failed because the server refused or broke off. Only the first few messages are kept.
type Result struct {
	Seconds   float64  `json:"seconds"`
	Latencies []int64  `json:"latencies_us"`
	Errors    int      `json:"errors"`
	Messages  []string `json:"messages"`
	CPU       float64  `json:"cpu_seconds"`
}

const keptMessages = 5

func main() {
	log.SetFlags(0)
	log.SetPrefix("loadgen: ")
	var job Job
	if err := json.NewDecoder(os.Stdin).Decode(&job); err != nil {
		log.Fatal(err)
	}
	if job.Clients < 1 || (len(job.Requests) == 0) == (len(job.Images) == 0) {
		log.Fatal("a job needs clients, and either requests or images")
	}
	var result Result
	if len(job.Requests) > 0 {
		result = sendRequests(job)
	} else {
		result = pullImages(job)
	}
	result.CPU = cpuSeconds()
	if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
		log.Fatal(err)
	}
}

// measure calls work(0), work(1), … from all clients at once until it returns false. It returns the time of each call.
func measure(clients int, work func(client, number int) (bool, error)) Result {
	var mutex sync.Mutex
	result := Result{Messages: []string{}}
	var all sync.WaitGroup
	next := counter()
	began := time.Now()
	for client := 0; client < clients; client++ {
		all.Add(1)
		go func(client int) {
			defer all.Done()
			var latencies []int64
			for {
				start := time.Now()
				more, err := work(client, next())
				if !more {
					break
				}
				latencies = append(latencies, time.Since(start).Microseconds())
				if err != nil {
					mutex.Lock()
					result.Errors++
					if len(result.Messages) < keptMessages {
						result.Messages = append(result.Messages, err.Error())
					}
					mutex.Unlock()
				}
			}
			mutex.Lock()
			result.Latencies = append(result.Latencies, latencies...)
			mutex.Unlock()
		}(client)
	}
	all.Wait()
	result.Seconds = time.Since(began).Seconds()
	return result
}

// wrong ends the program, because a figure for wrong answers is worth nothing.
func wrong(url, format string, values ...any) {
	log.Fatalf("%s: %s", url, fmt.Sprintf(format, values...))
}

func cpuSeconds() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		log.Fatal(err)
	}
	return seconds(usage.Utime) + seconds(usage.Stime)
}

func seconds(value syscall.Timeval) float64 {
	return float64(value.Sec) + float64(value.Usec)/1e6
}
