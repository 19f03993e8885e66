package controller

import (
	"context"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/record"
)

const (
	// maxQueuedEvents wait at the same time; any more are lost.
	maxQueuedEvents = 20_000

	// writeQuietPeriod is how long the API server has been left alone by the
	// controller's writes before Events come at their full pace.
	writeQuietPeriod = time.Second

	// eventInterval and slowEvents are the pace of Events, while nothing is written
	// to Services and while something is.
	eventInterval, eventIntervalWhileWriting = 10 * time.Millisecond, 200 * time.Millisecond
)

// eventQueue holds Events back, so that in a burst they neither compete with the
// addresses that they tell of, nor overflow client-go's queue.
type eventQueue struct {
	recorder  record.EventRecorder
	mu        sync.Mutex
	waiting   []func()
	lastWrite time.Time // the last write of something else
	added     chan struct{}
}

func newEventQueue(r record.EventRecorder) *eventQueue {
	return &eventQueue{recorder: r, added: make(chan struct{}, 1)}
}

// Event has the Event written, later.
func (p *eventQueue) Event(object runtime.Object, kind, reason, message string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) >= maxQueuedEvents {
		return
	}
	p.waiting = append(p.waiting, func() { p.recorder.Event(object, kind, reason, message) })
	select {
	case p.added <- struct{}{}:
	default:
	}
}

// noteWrite notes that something more important is being written.
func (p *eventQueue) noteWrite() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lastWrite = time.Now()
}

// nextEvent is the Event to write now, nil if none waits, and the wait after it.
func (p *eventQueue) nextEvent() (event func(), pause time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) == 0 {
		return nil, 0
	}
	event, p.waiting = p.waiting[0], p.waiting[1:]
	if time.Since(p.lastWrite) < writeQuietPeriod {
		return event, eventIntervalWhileWriting
	}
	return event, eventInterval
}

// run writes Events until ctx ends.
func (p *eventQueue) run(ctx context.Context) {
	for {
		event, pause := p.nextEvent()
		if event != nil {
			event()
		} else {
			select {
			case <-ctx.Done():
				return
			case <-p.added:
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
