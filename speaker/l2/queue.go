package l2

import (
	"container/heap"
	"net/netip"
	"time"
)

// sendInterval is the shortest mean time between two frames of the same kind on an
// interface, and batchSize the number of frames that share a pause: a rate limit, so that a
// takeover of thousands of addresses does not flood the segment.
const (
	sendInterval = 50 * time.Microsecond
	batchSize    = 128

	// maxDelay is the delay of a batch for which the next ones make up.
	maxDelay = 4 * batchSize * sendInterval
)

// task is what a responder does for one address.
type task struct {
	addr    netip.Addr
	mode    mode
	step    int       // the number of steps done
	due     time.Time // of the next step
	probed  time.Time // when the last probe was sent
	cleared bool      // no host has answered the probes
	removed bool      // no longer desired

	announced time.Time // when the address was last announced in the first step
	claimant  string    // while defending, the MAC of the host
}

// queue holds the tasks that have a next step. The first steps precede all later ones,
// so that all addresses of a takeover are announced before the first one is repeated.
// The zero value is ready for use. Not to be used concurrently.
type queue struct {
	first []*task
	later laterTasks
}

// push adds the task with its next step after the wait; without a wait, it precedes the
// tasks that had to wait.
func (q *queue) push(t *task, now time.Time, wait time.Duration) {
	t.due = now.Add(wait)
	if wait == 0 {
		q.first = append(q.first, t)
		return
	}
	heap.Push(&q.later, t)
}

// pop removes a task that is due. Without one it returns the time until one is, 0 if
// there is none.
func (q *queue) pop(now time.Time) (due *task, wait time.Duration) {
	for len(q.first) > 0 {
		due, q.first = q.first[0], q.first[1:]
		if !due.removed {
			return due, 0
		}
	}
	q.first = nil // the array, too
	for len(q.later) > 0 {
		switch next := q.later[0]; {
		case next.removed:
			heap.Pop(&q.later)
		case next.due.After(now):
			return nil, next.due.Sub(now)
		default:
			heap.Pop(&q.later)
			return next, 0
		}
	}
	return nil, 0
}

// laterTasks implement heap.Interface, ordered by the time that they are due.
type laterTasks []*task

func (l laterTasks) Len() int           { return len(l) }
func (l laterTasks) Less(i, j int) bool { return l[i].due.Before(l[j].due) }
func (l laterTasks) Swap(i, j int)      { l[i], l[j] = l[j], l[i] }
func (l *laterTasks) Push(t any)        { *l = append(*l, t.(*task)) }
func (l *laterTasks) Pop() any {
	all := *l
	last := all[len(all)-1]
	all[len(all)-1] = nil
	*l = all[:len(all)-1]
	return last
}
