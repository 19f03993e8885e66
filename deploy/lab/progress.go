package lab

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// Progress prints the steps of the lab and their durations.
type Progress struct {
	Out io.Writer
}

// progressInterval is the interval at which the progress of a running step is printed.
const progressInterval = 15 * time.Second

// Step runs work and prints its description and duration.
func (p Progress) Step(what string, work func() error) error {
	started := time.Now()
	done := make(chan struct{})
	var reporter sync.WaitGroup
	reporter.Go(func() {
		tick := time.NewTicker(progressInterval)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				fmt.Fprintf(p.Out, "  …  %s, %.0f s so far\n", what, time.Since(started).Seconds())
			}
		}
	})
	err := work()
	close(done)
	reporter.Wait()
	mark := "ok"
	if err != nil {
		mark = "!!"
	}
	fmt.Fprintf(p.Out, "  %s %-64s %6.1f s\n", mark, what, time.Since(started).Seconds())
	return err
}
