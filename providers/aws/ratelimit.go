package aws

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	"github.com/aws/smithy-go/middleware"
	"golang.org/x/time/rate"
)

// rateLimiter keeps the process below the account's API limits, which it shares
// with all other clients of the account. It is a middleware of the SDK.
type rateLimiter struct {
	mu      sync.Mutex
	buckets map[string]*rate.Limiter
	bases   map[string]rate.Limit
}

// bucketSizes are the limits of the buckets: calls a second, and calls at once.
// AWS limits the calls of an account and region in token buckets, one for each
// kind.
var bucketSizes = map[string]struct {
	rate  rate.Limit
	burst int
}{
	"Describe": {20, 100},
	"Targets":  {4, 20},
	"Modify":   {3, 40},
}

func newRateLimiter() *rateLimiter {
	l := &rateLimiter{buckets: map[string]*rate.Limiter{}, bases: map[string]rate.Limit{}}
	for _, service := range []string{ec2.ServiceID, elb.ServiceID} {
		for bucket, size := range bucketSizes {
			l.buckets[service+bucket] = rate.NewLimiter(size.rate, size.burst)
			l.bases[service+bucket] = size.rate
		}
	}
	return l
}

// bucketOf returns the bucket of an action within its service: reads, registrations
// of targets, or other writes.
func bucketOf(action string) string {
	switch {
	case strings.HasPrefix(action, "Describe"):
		return "Describe"
	case strings.HasSuffix(action, "gisterTargets"):
		return "Targets"
	}
	return "Modify"
}

// ID names the middleware.
func (*rateLimiter) ID() string { return "FairleadLimits" }

// HandleFinalize waits for a token, makes one attempt of a call, and observes
// its duration.
func (l *rateLimiter) HandleFinalize(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (
	middleware.FinalizeOutput, middleware.Metadata, error,
) {
	action := awsmiddleware.GetOperationName(ctx)
	bucket := awsmiddleware.GetServiceID(ctx) + bucketOf(action)
	if b := l.buckets[bucket]; b != nil {
		if err := b.Wait(ctx); err != nil {
			return middleware.FinalizeOutput{}, middleware.Metadata{}, fmt.Errorf("rate limit of AWS API calls: %w", err)
		}
	}
	start := time.Now()
	out, metadata, err := next.HandleFinalize(ctx, in)
	l.adaptRate(bucket, err)
	observeCall(action, codeOf(err), time.Since(start))
	return out, metadata, err
}

// adaptRate halves the rate when AWS throttles, and raises it again slowly.
func (l *rateLimiter) adaptRate(bucket string, err error) {
	b := l.buckets[bucket]
	if b == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	base := l.bases[bucket]
	if throttleErrors.IsErrorThrottle(err) == aws.TrueTernary {
		b.SetLimit(max(b.Limit()/2, base/20))
	} else if b.Limit() < base {
		b.SetLimit(min(b.Limit()+base/50, base))
	}
}

var throttleErrors = retry.ThrottleErrorCode{Codes: retry.DefaultThrottleErrorCodes}
