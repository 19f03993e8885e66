package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// RequestStream is a sequence of requests: by HTTP, each over a new connection, or by UDP,
// all from one socket unless NewFlows is set.
type RequestStream struct {
	URL     string        // http://HOST:PORT/PATH, or udp://HOST:PORT of an EchoUDP
	Every   time.Duration // from the start of one request to the start of the next
	Timeout time.Duration // after which a request counts as lost; 0 is 900 ms, which excludes a SYN retransmission
	// NewFlows sends each UDP request from another source port: kube-proxy keeps a flow, that is
	// the requests from one port, on a terminating pod until the pod has ended.
	NewFlows bool
	// Serial makes each request wait for the end of the previous one, so that a short
	// disruption affects one connection only.
	Serial bool
}

// StreamReport is the result of a RequestStream.
type StreamReport struct {
	Sent, Lost int
	// Gap is the longest time between the starts of two successive successful
	// requests. Without losses it is about Every.
	Gap time.Duration
	// Outage is the time from the start of the first lost request to the start of
	// the first request after the last lost one. During the outage some clients, but
	// not necessarily all, had no response.
	Outage time.Duration
	// Silence is the longest time between two successive responses, including the time
	// before the first and after the last one.
	Silence time.Duration
	// Broken is the number of lost requests with a connection that was reset, because
	// a router rehashed the flow to another node. TimedOut is the number of those without a
	// response.
	Broken, TimedOut int
	// Answers and Errors are the numbers of occurrences of each response and error.
	Answers, Errors map[string]int
}

// String returns the report in one line.
func (r StreamReport) String() string {
	if r.Lost == 0 {
		return fmt.Sprintf("none of %d requests lost", r.Sent)
	}
	return fmt.Sprintf("%d of %d requests lost, within %s", r.Lost, r.Sent, r.Outage.Round(time.Millisecond))
}

// Causes returns why requests were lost, such as "2 reset, 1 timed out", "" if none was.
func (r StreamReport) Causes() string {
	var causes []string
	for _, c := range []struct {
		count int
		name  string
	}{{r.Broken, "reset"}, {r.TimedOut, "timed out"}, {r.Lost - r.Broken - r.TimedOut, "refused or unreachable"}} {
		if c.count > 0 {
			causes = append(causes, fmt.Sprintf("%d %s", c.count, c.name))
		}
	}
	return strings.Join(causes, ", ")
}

// Start starts the stream. stop ends it and returns the report.
func (s RequestStream) Start(ctx context.Context, from *Host) (stop func() StreamReport) {
	ctx, cancel := context.WithCancel(ctx)
	report := make(chan StreamReport, 1)
	go func() { report <- s.Run(ctx, from) }()
	return func() StreamReport { cancel(); return <-report }
}

// Run sends requests from the host until ctx ends. It returns the report when the last
// request has been answered or lost.
func (s RequestStream) Run(ctx context.Context, from *Host) StreamReport {
	if s.Timeout == 0 {
		s.Timeout = 900 * time.Millisecond
	}
	type result struct {
		at, end time.Duration
		answer  string
		err     error
	}
	var (
		running sync.WaitGroup
		mu      sync.Mutex
		results = make(map[int]result)
	)
	send, done := s.open(from)
	defer done()
	started := time.Now()
	tick := time.NewTicker(s.Every)
	defer tick.Stop()
	for i := 0; ctx.Err() == nil; i++ {
		at := time.Since(started)
		running.Go(func() {
			// A request in flight at the end of the stream is included.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.Timeout)
			defer cancel()
			answer, err := send(ctx)
			mu.Lock()
			defer mu.Unlock()
			results[i] = result{at, time.Since(started), answer, err}
		})
		if s.Serial {
			running.Wait()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	sending := time.Since(started)
	running.Wait()
	report := StreamReport{Sent: len(results), Answers: make(map[string]int), Errors: make(map[string]int)}
	var last time.Duration
	first := time.Duration(-1)               // start of the first lost request
	responses := []time.Duration{0, sending} // by time
	for i := range len(results) {
		r := results[i]
		report.Gap = max(report.Gap, r.at-last) // also if no later request succeeds
		if i > 0 && results[i-1].err != nil {
			report.Outage = r.at - first
		}
		if r.err != nil {
			report.Lost++
			report.Errors[r.err.Error()]++
			if errors.Is(r.err, syscall.ECONNRESET) || errors.Is(r.err, io.EOF) {
				report.Broken++
			} else if timeout := net.Error(nil); errors.As(r.err, &timeout) && timeout.Timeout() {
				report.TimedOut++
			}
			if first < 0 {
				first = r.at
			}
			continue
		}
		report.Answers[r.answer]++
		last = r.at
		responses = append(responses, r.end)
	}
	slices.Sort(responses)
	for i := range len(responses) - 1 {
		report.Silence = max(report.Silence, responses[i+1]-responses[i])
	}
	return report
}

// open returns a function that sends one request from the host and waits for the response.
// It may be called concurrently, until done is called.
func (s RequestStream) open(from *Host) (send func(context.Context) (string, error), done func()) {
	target, isUDP := strings.CutPrefix(s.URL, "udp://")
	if !isUDP {
		return func(ctx context.Context) (string, error) { return from.getURL(ctx, s.URL) }, func() {}
	}
	if s.NewFlows {
		return func(ctx context.Context) (string, error) {
			c, err := from.newFlow(target)
			if err != nil {
				return "", err
			}
			defer c.close()
			return c.exchange(ctx)
		}, func() {}
	}
	c, err := from.dialUDP(target, 0)
	if err != nil {
		return func(context.Context) (string, error) { return "", err }, func() {}
	}
	return c.exchange, c.close
}
