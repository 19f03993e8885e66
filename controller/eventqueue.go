package controller

import (
	"context"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/record"
)

const (
	// maxQueuedEvents bounds the queue. Events beyond it are dropped.
	maxQueuedEvents = 20_000

	// writeQuietPeriod is the time without writes to Services after which Events are
	// written at the full rate.
	writeQuietPeriod = time.Second

	// eventInterval is the time between two Events, eventIntervalWhileWriting the
	// time between them while Services are written.
	eventInterval, eventIntervalWhileWriting = 10 * time.Millisecond, 200 * time.Millisecond
)

// eventQueue rate-limits Events, so that in a burst they neither compete with the
// writes that they report nor overflow client-go's queue.
type eventQueue struct {
	recorder  record.EventRecorder
	mu        sync.Mutex
	waiting   []func()
	lastWrite time.Time // of a Service
	added     chan struct{}
}

func newEventQueue(r record.EventRecorder) *eventQueue {
	return &eventQueue{recorder: r, added: make(chan struct{}, 1)}
}

// Event enqueues an Event.
func (q *eventQueue) Event(object runtime.Object, kind, reason, message string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) >= maxQueuedEvents {
		return
	}
	q.waiting = append(q.waiting, func() { q.recorder.Event(object, kind, reason, message) })
	select {
	case q.added <- struct{}{}:
	default:
	}
}

// noteWrite records that a Service is being written, which has precedence.
func (q *eventQueue) noteWrite() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lastWrite = time.Now()
}

// nextEvent removes the next Event from the queue, nil if it is empty, and returns
// the time to wait after writing it.
func (q *eventQueue) nextEvent() (event func(), pause time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		return nil, 0
	}
	event, q.waiting = q.waiting[0], q.waiting[1:]
	if time.Since(q.lastWrite) < writeQuietPeriod {
		return event, eventIntervalWhileWriting
	}
	return event, eventInterval
}

// run writes Events until ctx is done. Queued ones are dropped then.
func (q *eventQueue) run(ctx context.Context) {
	for {
		event, pause := q.nextEvent()
		if event != nil {
			event()
		} else {
			select {
			case <-ctx.Done():
				return
			case <-q.added:
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
