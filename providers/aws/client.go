package aws

import (
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
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
	callTimeout     = 30 * time.Second // of one attempt
	attempts        = 5
	longestBackoff  = 20 * time.Second
	metadataTimeout = time.Second // where there is no instance metadata, nobody answers
)

// conn is the connection to one region.
type conn struct {
	ec2    *ec2api.Client
	elb    *elbapi.Client
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
	c.conn = &conn{ec2: ec2api.NewFromConfig(cfg), elb: elbapi.NewFromConfig(cfg), region: cfg.Region}
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

// askTimeout ends what is asked for several, whoever waits for it.
const askTimeout = time.Minute

// call makes a call of the SDK, and gives its error words.
func call[In, Out, Options any](ctx context.Context, do func(context.Context, *In, ...func(*Options)) (*Out, error), in *In) (*Out, error) {
	out, err := do(ctx, in)
	if err != nil {
		return out, explain(err)
	}
	return out, nil
}

// once asks AWS for all who want to know the same at the same time. They share
// the failure, too: during an outage nobody waits for the retries of others.
func once(ctx context.Context, flight *singleflight.Group, what string, ask func(context.Context) error) error {
	done := flight.DoChan(what, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
		defer cancel()
		return nil, ask(ctx)
	})
	select {
	case <-ctx.Done():
		return ctx.Err()
	case r := <-done:
		return r.Err
	}
}

// patient tries again for some seconds while what was just made is not known
// everywhere.
func patient(ctx context.Context, code string, do func() error) error {
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

func filter(name string, values ...string) []ec2.Filter {
	return []ec2.Filter{{Name: aws.String(name), Values: values}}
}
