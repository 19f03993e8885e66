package controller

import (
	"context"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/record"
)

const (
	// mostEvents wait at the same time; any more are lost.
	mostEvents = 20_000

	// afterWrites is how long the API server has been left alone by the
	// controller's writes before Events come at their full pace.
	afterWrites = time.Second

	// quickEvents and slowEvents are the pace of Events, while nothing is written
	// to Services and while something is.
	quickEvents, slowEvents = 10 * time.Millisecond, 200 * time.Millisecond
)

// patience holds Events back, so that in a burst they neither compete with the
// addresses that they tell of, nor overflow client-go's queue.
type patience struct {
	to      record.EventRecorder
	mu      sync.Mutex
	waiting []func()
	wrote   time.Time // the last write of something else
	news    chan struct{}
}

func newPatience(r record.EventRecorder) *patience {
	return &patience{to: r, news: make(chan struct{}, 1)}
}

// Event has the Event written, later.
func (p *patience) Event(object runtime.Object, kind, reason, message string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) >= mostEvents {
		return
	}
	p.waiting = append(p.waiting, func() { p.to.Event(object, kind, reason, message) })
	select {
	case p.news <- struct{}{}:
	default:
	}
}

// writing notes that something more important is being written.
func (p *patience) writing() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wrote = time.Now()
}

// next is the Event to write now, nil if none waits, and the wait after it.
func (p *patience) next() (event func(), pause time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) == 0 {
		return nil, 0
	}
	event, p.waiting = p.waiting[0], p.waiting[1:]
	if time.Since(p.wrote) < afterWrites {
		return event, slowEvents
	}
	return event, quickEvents
}

// run writes Events until ctx ends.
func (p *patience) run(ctx context.Context) {
	for {
		event, pause := p.next()
		if event != nil {
			event()
		} else {
			select {
			case <-ctx.Done():
				return
			case <-p.news:
			}
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}
