package lab

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// Progress tells a person what is going on.
type Progress struct {
	Out io.Writer
}

// progressInterval is how often a step that is still running says so.
const progressInterval = 15 * time.Second

// Step runs work and prints what it was and how long it took.
func (p Progress) Step(what string, work func() error) error {
	started := time.Now()
	done := make(chan struct{})
	var talker sync.WaitGroup
	talker.Go(func() {
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
	talker.Wait()
	mark := "ok"
	if err != nil {
		mark = "!!"
	}
	fmt.Fprintf(p.Out, "  %s %-64s %6.1f s\n", mark, what, time.Since(started).Seconds())
	return err
}
