package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"
)

// RequestStream is a row of requests, each over a connection of its own.
type RequestStream struct {
	URL     string
	Every   time.Duration // from the start of one request to the start of the next
	Timeout time.Duration // after which a request counts as lost; 0 is 300 ms: no SYN is sent twice
	// Serial makes a request wait for the end of the one before, so that what
	// breaks the connections of a moment breaks one.
	Serial bool
}

// StreamReport says how a Stream fared.
type StreamReport struct {
	Sent, Lost int
	// Gap is the longest time in which no request succeeded, from the start of
	// the last one before to the start of the first one after. Without losses
	// it is about Every.
	Gap time.Duration
	// Outage is from the start of the first request that was lost to that of
	// the first one after the last that was: as long as some clients, though
	// perhaps not all, had no answer.
	Outage time.Duration
	// Broken are those of Lost whose connection was reset: a router that spreads
	// flows anew sends its packets to another node, which knows nothing of it.
	Broken int
	// Answers are how often each was given, and Errors how often each was met.
	Answers, Errors map[string]int
}

// String is the report in a line.
func (r StreamReport) String() string {
	if r.Lost == 0 {
		return fmt.Sprintf("none of %d requests lost", r.Sent)
	}
	return fmt.Sprintf("%d of %d requests lost, within %s", r.Lost, r.Sent, r.Outage.Round(time.Millisecond))
}

// Start runs the stream until stop, which returns the report.
func (s RequestStream) Start(ctx context.Context, from *Host) (stop func() StreamReport) {
	ctx, cancel := context.WithCancel(ctx)
	report := make(chan StreamReport, 1)
	go func() { report <- s.Run(ctx, from) }()
	return func() StreamReport { cancel(); return <-report }
}

// Run sends requests from the host until ctx ends, and reports when the last of
// them has been answered or lost.
func (s RequestStream) Run(ctx context.Context, from *Host) StreamReport {
	if s.Timeout == 0 {
		s.Timeout = 300 * time.Millisecond
	}
	type result struct {
		at     time.Duration
		answer string
		err    error
	}
	var (
		running sync.WaitGroup
		mu      sync.Mutex
		results = make(map[int]result)
	)
	started := time.Now()
	tick := time.NewTicker(s.Every)
	defer tick.Stop()
	for i := 0; ctx.Err() == nil; i++ {
		at := time.Since(started)
		running.Go(func() {
			// A request that is under way when the stream ends still counts.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.Timeout)
			defer cancel()
			answer, err := from.getURL(ctx, s.URL)
			mu.Lock()
			defer mu.Unlock()
			results[i] = result{at, answer, err}
		})
		if s.Serial {
			running.Wait()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	running.Wait()
	report := StreamReport{Sent: len(results), Answers: make(map[string]int), Errors: make(map[string]int)}
	var last time.Duration
	first := time.Duration(-1) // when the first one was sent that was lost
	for i := range len(results) {
		r := results[i]
		report.Gap = max(report.Gap, r.at-last) // also if it never succeeds again
		if i > 0 && results[i-1].err != nil {
			report.Outage = r.at - first
		}
		if r.err != nil {
			report.Lost++
			report.Errors[r.err.Error()]++
			if errors.Is(r.err, syscall.ECONNRESET) || errors.Is(r.err, io.EOF) {
				report.Broken++
			}
			if first < 0 {
				first = r.at
			}
			continue
		}
		report.Answers[r.answer]++
		last = r.at
	}
	return report
}
