package aws

import (
	"cmp"
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	ec2api "github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2 "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	elbapi "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	"github.com/aws/smithy-go/middleware"
	"golang.org/x/sync/singleflight"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

const (
	callTimeout = 30 * time.Second // of one attempt
	// A call that AWS throttles rarely fails: each attempt waits for the rate limit
	// again, so that more attempts do not mean more calls per second. Calls that AWS
	// refuses are not repeated.
	maxAttempts     = 8
	maxBackoff      = 5 * time.Second
	metadataTimeout = time.Second // outside of EC2 no server answers
)

// sharedCallTimeout limits a call that serves several callers, none of which
// can cancel it.
const sharedCallTimeout = time.Minute

// apiClients are the SDK's clients for one region.
type apiClients struct {
	ec2     *ec2api.Client
	elb     *elbapi.Client
	region  string
	limiter *rateLimiter
}

// connect makes the clients as soon as a region is known. It does not call AWS.
// Every exported method that uses c.clients must call connect first; afterwards
// they do not change any more.
func (c *Cloud) connect(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.apiClients != nil {
		return nil
	}
	if c.options.Cluster == "" {
		return newRefusal(v1alpha1.CloudNotConfigured,
			"AWS requires a cluster name, which identifies the load balancers of this cluster: set the controller's flag --cluster-name")
	}
	load := append([]func(*config.LoadOptions) error{
		config.WithHTTPClient(awshttp.NewBuildableClient().WithTimeout(callTimeout)), // reads AWS_CA_BUNDLE
		config.WithAppID("fairlead"),
		config.WithRetryer(func() aws.Retryer { return newRetryer(maxBackoff) }),
	}, c.options.Load...)
	cfg, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return newRefusal(v1alpha1.CloudNotConfigured, "load the AWS configuration: %s", err)
	}
	if cfg.Region, err = c.detectRegion(ctx, cfg); err != nil {
		return err
	}
	cfg.Credentials = credentialsProvider{cfg.Credentials}
	limiter := newRateLimiter(c.bucketSizes)
	cfg.APIOptions = append(cfg.APIOptions, func(s *middleware.Stack) error {
		// After "Retry", the limiter is called for each attempt, and observes its
		// duration without the backoff.
		return s.Finalize.Insert(limiter, "Retry", middleware.After)
	})
	c.apiClients = &apiClients{ec2: ec2api.NewFromConfig(cfg), elb: elbapi.NewFromConfig(cfg), region: cfg.Region, limiter: limiter}
	c.log.Info("connected to AWS", "region", cfg.Region, "cluster", c.options.Cluster)
	return nil
}

// newRetryer returns the retries of calls. The SDK's quota of retries is disabled:
// once throttling has used it up, each throttled call fails at its first attempt,
// and a sync of many calls hardly ever succeeds. The rate limit, which each attempt
// waits for, and the backoff of the controller bound the attempts.
func newRetryer(maxBackoff time.Duration) aws.Retryer {
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts, o.MaxBackoff, o.RateLimiter = maxAttempts, maxBackoff, ratelimit.None
	})
}

// detectRegion returns the region of the flag, the environment, the nodes or
// the instance, in this order.
func (c *Cloud) detectRegion(ctx context.Context, cfg aws.Config) (string, error) {
	// Instance metadata is the last source: outside of EC2 the request only ends
	// with its timeout.
	if r := cmp.Or(c.options.Region, cfg.Region, nodesRegion(c.options.Nodes())); r != "" {
		return r, nil
	}
	ctx, cancel := context.WithTimeout(ctx, metadataTimeout)
	defer cancel()
	out, err := imds.NewFromConfig(cfg).GetRegion(ctx, &imds.GetRegionInput{})
	if err != nil || out.Region == "" {
		return "", newRefusal(v1alpha1.CloudNotConfigured,
			"unknown AWS region: no node's providerID contains a zone, and instance metadata is not available; "+
				"set the controller's flag --aws-region or the environment variable AWS_REGION")
	}
	return out.Region, nil
}

// callAPI makes one call of the SDK. Its error is a callError.
func callAPI[In, Out, Options any](
	ctx context.Context, do func(context.Context, *In, ...func(*Options)) (*Out, error), in *In,
) (*Out, error) {
	out, err := do(ctx, in)
	if err != nil {
		return nil, explainError(err)
	}
	return out, nil
}

// paginator is implemented by the SDK's paginators.
type paginator[Out, Options any] interface {
	HasMorePages() bool
	NextPage(ctx context.Context, options ...func(*Options)) (*Out, error)
}

// listAll returns the items of all pages.
func listAll[Out, Options, Item any](ctx context.Context, pages paginator[Out, Options], items func(*Out) []Item) (all []Item, err error) {
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, explainError(err)
		}
		all = append(all, items(page)...)
	}
	return all, nil
}

// callOnce makes one call for all callers that use the same key at the same
// time. They share its failure as well: during an outage none waits for the
// retries of the others.
func callOnce(ctx context.Context, flight *singleflight.Group, key string, do func(context.Context) error) error {
	done := flight.DoChan(key, func() (any, error) {
		// The context is the one of the caller that began the call, which may end
		// while the others still wait. The call is made for all Services.
		ctx, cancel := context.WithTimeout(withFlow(context.WithoutCancel(ctx), ""), sharedCallTimeout)
		defer cancel()
		return nil, do(ctx)
	})
	select {
	case <-ctx.Done():
		return ctx.Err()
	case r := <-done:
		return r.Err
	}
}

// retryWhile retries a call for some seconds while it fails with the code of an
// object that was just created, since AWS is eventually consistent.
func retryWhile(ctx context.Context, code string, do func() error) error {
	// There are at most seven attempts, in 6.3 seconds plus their duration.
	for wait := 100 * time.Millisecond; ; wait *= 2 {
		err := do()
		if !isCode(err, code) || wait > 4*time.Second {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
}

// ec2Filter returns a filter that an object passes if it has any of the values.
// Unlike a list of IDs or names, a filter does not fail for a value that does not
// exist.
func ec2Filter(name string, values ...string) []ec2.Filter {
	return []ec2.Filter{{Name: aws.String(name), Values: values}}
}
