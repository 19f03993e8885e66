package aws

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/types"
)

// refusedWrites is the number of writes that AWS must refuse in one sync of a Service
// before its other writes are limited further. A sync that succeeds can have some,
// such as for what another client has changed.
const refusedWrites = 5

// rateLimiter keeps the process below the account's API limits, which it shares
// with all other clients of the account. It is a middleware of the SDK.
type rateLimiter struct {
	buckets map[string]*callBucket // they do not change

	mu      sync.Mutex
	refused map[types.UID]int // writes since the last successful sync, by flow
}

// bucketSize has the limits of a bucket: calls a second, and calls at once.
type bucketSize struct {
	rate  rate.Limit
	burst int
}

// bucketSizes are the sizes of the buckets. AWS limits the calls of an account and
// region in token buckets, one for each kind.
var bucketSizes = map[string]bucketSize{
	"Describe": {20, 100},
	"Targets":  {4, 20},
	"Modify":   {3, 40},
}

func newRateLimiter(sizes map[string]bucketSize) *rateLimiter {
	l := &rateLimiter{buckets: map[string]*callBucket{}, refused: map[types.UID]int{}}
	for _, service := range []string{ec2.ServiceID, elb.ServiceID} {
		for kind, size := range sizes {
			l.buckets[service+kind] = newCallBucket(size)
		}
	}
	return l
}

// bucketOf returns the bucket of an action within its service: reads, registrations
// of targets, or other writes.
func bucketOf(action string) string {
	switch {
	case isRead(action):
		return "Describe"
	case strings.HasSuffix(action, "gisterTargets"):
		return "Targets"
	}
	return "Modify"
}

func isRead(action string) bool { return strings.HasPrefix(action, "Describe") }

// flowKey is the key of a context's flow.
type flowKey struct{}

// withFlow returns a context for calls of the flow of a Service. Calls for
// all Services, such as lists, belong to the flow "".
func withFlow(ctx context.Context, uid types.UID) context.Context {
	return context.WithValue(ctx, flowKey{}, uid)
}

func flowOf(ctx context.Context) types.UID {
	uid, _ := ctx.Value(flowKey{}).(types.UID)
	return uid
}

// ID names the middleware.
func (*rateLimiter) ID() string { return "FairleadLimits" }

// HandleFinalize waits for a token, makes one attempt of a call, and observes
// its duration.
func (l *rateLimiter) HandleFinalize(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (
	middleware.FinalizeOutput, middleware.Metadata, error,
) {
	action, flow := awsmiddleware.GetOperationName(ctx), flowOf(ctx)
	b := l.buckets[awsmiddleware.GetServiceID(ctx)+bucketOf(action)]
	if b != nil {
		if err := b.wait(ctx, flow, !isRead(action) && l.isFailing(flow)); err != nil {
			return middleware.FinalizeOutput{}, middleware.Metadata{}, fmt.Errorf("rate limit of AWS API calls: %w", err)
		}
	}
	start := time.Now()
	out, metadata, err := next.HandleFinalize(ctx, in)
	if b != nil && isThrottled(err) {
		b.reduceRate()
	}
	if !isRead(action) && isRefused(err) {
		l.recordRefused(flow)
	}
	observeCall(action, codeOf(err), time.Since(start))
	return out, metadata, err
}

// isFailing reports whether the writes of a flow are limited further.
func (l *rateLimiter) isFailing(flow types.UID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.refused[flow] >= refusedWrites
}

// recordRefused records a refused write. The flow "" is that of all Services.
func (l *rateLimiter) recordRefused(flow types.UID) {
	if flow == "" {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refused[flow]++
}

// endSync records the result of a sync. The writes of a Service are limited further
// after a sync that AWS has refused, until one succeeds. Throttling and outages
// change nothing: they affect all Services.
func (l *rateLimiter) endSync(flow types.UID, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		delete(l.refused, flow)
	case isRefused(err):
		l.refused[flow] = refusedWrites
	}
}

// isRefused reports whether AWS has refused a call, and would refuse it again. A
// duplicate is what the call would have created.
func isRefused(err error) bool {
	var refusal smithy.APIError
	var response interface{ HTTPStatusCode() int }
	return errors.As(err, &refusal) && errors.As(err, &response) && response.HTTPStatusCode()/100 == 4 &&
		!strings.HasSuffix(refusal.ErrorCode(), ".Duplicate") && !isThrottled(err)
}

func isThrottled(err error) bool { return throttleErrors.IsErrorThrottle(err) == aws.TrueTernary }

var throttleErrors = retry.ThrottleErrorCode{Codes: retry.DefaultThrottleErrorCodes}
