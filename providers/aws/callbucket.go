package aws

import (
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// minRateShare is the share of its rate that a throttled bucket keeps.
	minRateShare = 0.25
	// reduceEvery is the minimum time between two reductions: the calls that run in
	// parallel are throttled together.
	reduceEvery = time.Second
	// recovery is the time in which a rate would recover from 0.
	recovery = time.Minute
	// failingShare is the share of a bucket that all failing flows have together.
	failingShare = 0.25
)

// callBucket is a token bucket. Waiting flows are served round robin, so that the
// calls of one do not delay the others. All methods may be called concurrently.
type callBucket struct {
	base rate.Limit

	mu      sync.Mutex
	tokens  *rate.Limiter
	failing *rate.Limiter // in addition, of failing flows
	reduced time.Time     // when the rate was reduced last
	rate    rate.Limit    // to which it was reduced then
	queue   []*callFlow   // flows with waiting calls, the next one first
	timer   *time.Timer   // of the next token
}

// callFlow has the waiting calls of one flow.
type callFlow struct {
	uid     types.UID
	waiting []*waitingCall
}

type waitingCall struct {
	failing bool
	admit   chan struct{} // is closed when the call has its token
}

func newCallBucket(size bucketSize) *callBucket {
	return &callBucket{
		base: size.rate, rate: size.rate, tokens: rate.NewLimiter(size.rate, size.burst),
		failing: rate.NewLimiter(size.rate*failingShare, max(1, int(float64(size.burst)*failingShare))),
	}
}

// wait waits for a token, or until ctx is done.
func (b *callBucket) wait(ctx context.Context, flow types.UID, failing bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	call := &waitingCall{failing, make(chan struct{})}
	b.mu.Lock()
	if i := slices.IndexFunc(b.queue, func(f *callFlow) bool { return f.uid == flow }); i >= 0 {
		b.queue[i].waiting = append(b.queue[i].waiting, call)
	} else {
		b.queue = append(b.queue, &callFlow{flow, []*waitingCall{call}})
	}
	b.admitCalls()
	b.mu.Unlock()
	select {
	case <-call.admit:
		return nil
	case <-ctx.Done():
		b.cancel(flow, call)
		return ctx.Err()
	}
}

// cancel removes a call from the queue.
func (b *callBucket) cancel(flow types.UID, call *waitingCall) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range b.queue {
		if f.uid == flow {
			f.waiting = slices.DeleteFunc(f.waiting, func(c *waitingCall) bool { return c == call })
		}
	}
	b.queue = slices.DeleteFunc(b.queue, func(f *callFlow) bool { return len(f.waiting) == 0 })
}

// admitCalls admits the waiting calls for which there are tokens, and sets the timer
// for the next one. b.mu must be held.
func (b *callBucket) admitCalls() {
	now := time.Now()
	b.setRate(now, b.currentRate(now))
	for b.admitNext(now) {
	}
	if b.timer != nil {
		b.timer.Stop()
		b.timer = nil
	}
	if len(b.queue) == 0 {
		return
	}
	delay := untilToken(b.tokens, now)
	// Tokens are left: all waiting calls are those of failing flows.
	if delay == 0 {
		delay = untilToken(b.failing, now)
	}
	b.timer = time.AfterFunc(max(delay, time.Millisecond), func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.admitCalls()
	})
}

// admitNext admits the next call, if there is a token for one.
func (b *callBucket) admitNext(now time.Time) bool {
	if b.tokens.TokensAt(now) < 1 {
		return false
	}
	for i, f := range b.queue {
		call := f.waiting[0]
		if call.failing && !b.failing.AllowN(now, 1) {
			continue
		}
		b.tokens.AllowN(now, 1)
		close(call.admit)
		// The flow's next call follows those of the other flows.
		b.queue = slices.Delete(b.queue, i, i+1)
		if f.waiting = f.waiting[1:]; len(f.waiting) > 0 {
			b.queue = append(b.queue, f)
		}
		return true
	}
	return false
}

// untilToken returns the time until the limiter has a token.
func untilToken(l *rate.Limiter, now time.Time) time.Duration {
	missing := 1 - l.TokensAt(now)
	if missing <= 0 {
		return 0
	}
	return time.Duration(missing / float64(l.Limit()) * float64(time.Second))
}

// currentRate is the rate after the recovery since the last reduction.
func (b *callBucket) currentRate(now time.Time) rate.Limit {
	if b.rate == b.base {
		return b.base
	}
	return min(b.base, b.rate+b.base*rate.Limit(now.Sub(b.reduced).Seconds()/recovery.Seconds()))
}

// setRate sets the rates of both limiters.
func (b *callBucket) setRate(now time.Time, limit rate.Limit) {
	if b.tokens.Limit() != limit {
		b.tokens.SetLimitAt(now, limit)
		b.failing.SetLimitAt(now, limit*failingShare)
	}
}

// reduceRate halves the rate after AWS has throttled a call.
func (b *callBucket) reduceRate() {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if now.Sub(b.reduced) < reduceEvery {
		return
	}
	b.rate, b.reduced = max(b.currentRate(now)/2, b.base*minRateShare), now
	b.setRate(now, b.rate)
}
