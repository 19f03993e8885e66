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
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
	"golang.org/x/time/rate"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

const (
	callTimeout     = 30 * time.Second // of one attempt
	attempts        = 5
	longestBackoff  = 20 * time.Second
	metadataTimeout = time.Second // where there is no instance metadata, nobody answers
)

// conn is the connection to one region.
type conn struct {
	ec2    *ec2.Client
	elb    *elb.Client
	region string
}

// connect makes the clients, once a region is known. It does not call AWS.
func (c *Cloud) connect(ctx context.Context) (*conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		return c.conn, nil
	}
	if c.options.Cluster == "" {
		return nil, &v1alpha1.Refusal{Reason: v1alpha1.CloudNotConfigured, Message: "AWS needs a name for the cluster, which tells its balancers from those of other clusters: give the controller --cluster-name"}
	}
	load := append([]func(*config.LoadOptions) error{
		config.WithHTTPClient(awshttp.NewBuildableClient().WithTimeout(callTimeout)), // reads AWS_CA_BUNDLE
		config.WithAppID("fairlead"),
		config.WithRetryer(func() aws.Retryer {
			return retry.NewStandard(func(o *retry.StandardOptions) { o.MaxAttempts, o.MaxBackoff = attempts, longestBackoff })
		}),
	}, c.options.Load...)
	cfg, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, &v1alpha1.Refusal{Reason: v1alpha1.CloudNotConfigured, Message: "read the configuration for AWS: " + err.Error()}
	}
	metadata := imds.NewFromConfig(cfg)
	if cfg.Region, err = c.region(ctx, cfg.Region, metadata); err != nil {
		return nil, err
	}
	limits := newLimits()
	cfg.APIOptions = append(cfg.APIOptions, func(s *middleware.Stack) error { return s.Finalize.Insert(limits, "Retry", middleware.After) })
	c.conn = &conn{ec2: ec2.NewFromConfig(cfg), elb: elb.NewFromConfig(cfg), region: cfg.Region}
	c.log.Info("connected to AWS", "region", cfg.Region, "cluster", c.options.Cluster)
	return c.conn, nil
}

// region is the flag's, the environment's, the nodes' or the instance's.
func (c *Cloud) region(ctx context.Context, environment string, metadata *imds.Client) (string, error) {
	if r := cmpOr(c.options.Region, environment, nodesRegion(c.options.Nodes())); r != "" {
		return r, nil
	}
	ctx, cancel := context.WithTimeout(ctx, metadataTimeout)
	defer cancel()
	out, err := metadata.GetRegion(ctx, &imds.GetRegionInput{})
	if err != nil || out.Region == "" {
		return "", &v1alpha1.Refusal{Reason: v1alpha1.CloudNotConfigured, Message: "the region is not known: no node's providerID names a zone, and there is no instance metadata; give the controller --aws-region, or AWS_REGION in its environment"}
	}
	return out.Region, nil
}

// limits keeps the process within what an account can take, whose limits are
// shared with everybody else who uses the account.
type limits struct {
	mu      sync.Mutex
	buckets map[string]*rate.Limiter
	bases   map[string]rate.Limit
}

// The buckets: calls a second, and calls at once.
var bucketSizes = map[string]struct {
	rate  rate.Limit
	burst int
}{
	"Describe": {20, 100},
	"Targets":  {4, 20},
	"Modify":   {3, 40},
}

func newLimits() *limits {
	l := &limits{buckets: map[string]*rate.Limiter{}, bases: map[string]rate.Limit{}}
	for _, service := range []string{ec2.ServiceID, elb.ServiceID} {
		for class, size := range bucketSizes {
			l.buckets[service+class] = rate.NewLimiter(size.rate, size.burst)
			l.bases[service+class] = size.rate
		}
	}
	return l
}

func class(action string) string {
	switch {
	case strings.HasPrefix(action, "Describe"):
		return "Describe"
	case strings.HasSuffix(action, "gisterTargets"):
		return "Targets"
	}
	return "Modify"
}

// ID names the middleware.
func (*limits) ID() string { return "FairleadLimits" }

// HandleFinalize waits for its turn, makes one attempt of a call, and notes how
// it went.
func (l *limits) HandleFinalize(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (middleware.FinalizeOutput, middleware.Metadata, error) {
	action := awsmiddleware.GetOperationName(ctx)
	bucket := awsmiddleware.GetServiceID(ctx) + class(action)
	if b := l.buckets[bucket]; b != nil {
		if err := b.Wait(ctx); err != nil {
			return middleware.FinalizeOutput{}, middleware.Metadata{}, fmt.Errorf("too many calls wait for their turn: %w", err)
		}
	}
	start := time.Now()
	out, metadata, err := next.HandleFinalize(ctx, in)
	l.adapt(bucket, err)
	observe(action, codeOf(err), time.Since(start))
	return out, metadata, err
}

// adapt halves the rate when AWS throttles, and raises it again slowly.
func (l *limits) adapt(bucket string, err error) {
	b := l.buckets[bucket]
	if b == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	base := l.bases[bucket]
	if throttled.IsErrorThrottle(err) == aws.TrueTernary {
		b.SetLimit(max(b.Limit()/2, base/20))
	} else if b.Limit() < base {
		b.SetLimit(min(b.Limit()+base/50, base))
	}
}

var throttled = retry.ThrottleErrorCode{Codes: retry.DefaultThrottleErrorCodes}

func codeOf(err error) string {
	var api smithy.APIError
	switch {
	case err == nil:
		return "OK"
	case errors.As(err, &api):
		return api.ErrorCode()
	}
	return "Unanswered"
}
