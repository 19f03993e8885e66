package aws

import (
	"cmp"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	cloudprovider "k8s.io/cloud-provider"
)

// ProviderName is the name of this cloud.
const ProviderName = "aws"

// Values of Options.HealthProbe.
const (
	probeKubeProxy = "kube-proxy"
	probeNodePort  = "node-port"
)

// The values of Options.HealthProbe and Options.Scheme; the first is the default.
var (
	HealthProbes = []string{probeKubeProxy, probeNodePort}
	Schemes      = []string{"internet-facing", "internal"}
)

// Options are the administrator's settings.
type Options struct {
	Cluster string // distinguishes the cluster's objects from those of others; without it nothing is served
	Region  string // "": that of the environment, the nodes, or the instance
	VPC     string // "": that of the nodes, or the instance
	// Nodes returns all nodes, which name the region.
	Nodes func() []*corev1.Node
	// NodeSecurityGroups must admit the load balancers; none: those of the nodes,
	// tagged kubernetes.io/cluster/CLUSTER if there are several.
	NodeSecurityGroups []string
	// ManageNodeSecurityGroups adds the rules to them that admit the load balancers.
	ManageNodeSecurityGroups bool
	// HealthProbe is the endpoint that health checks use under
	// externalTrafficPolicy: Cluster, either "kube-proxy" or "node-port".
	HealthProbe string
	Scheme      string            // of Services without the annotation: "internet-facing" or "internal"
	Tags        map[string]string // on everything, in addition to a Service's own
	NodePorts   [2]int32          // the API server's --service-node-port-range; none is its default
	// Resync is how often an unchanged load balancer is compared with its desired state.
	Resync        time.Duration
	DeleteOrphans bool // otherwise they are only counted
	Log           *slog.Logger
	// Load are further options for the SDK's configuration.
	Load []func(*config.LoadOptions) error
}

// Cloud is AWS. It implements cloudprovider.Interface, of which it offers load
// balancers alone. The methods of cloudprovider.LoadBalancer and Report may be
// called concurrently, also for one Service; SweepOrphans must not run twice at a time.
type Cloud struct {
	options      Options
	settings     adminSettings
	names        objectNames
	log          *slog.Logger
	pollInterval time.Duration // for what AWS has not completed
	gracePeriod  time.Duration // of a load balancer that was replaced
	bucketSizes  map[string]bucketSize

	mu          sync.Mutex // guards the following fields
	*apiClients            // nil before connect
	lastSyncs   map[types.UID]*lastSync
	// unfinished are the Services of which the last sync or deletion failed. They may
	// have security groups although nothing else exists.
	unfinished map[types.UID]bool
	locked     map[types.UID]bool
	unlocked   *sync.Cond

	loadBalancers listCache[elb.LoadBalancer]
	targetGroups  listCache[elb.TargetGroup]
	instances     instanceCache
	subnets       subnetCache
	sharedGroup   sharedGroup
	orphanedSince map[string]time.Time // by ARN or ID
}

// New checks the options. It makes no call: the first Service does.
func New(o Options) (*Cloud, error) {
	c := &Cloud{
		options: o, names: newNames(o.Cluster), log: o.Log, bucketSizes: bucketSizes,
		lastSyncs: map[types.UID]*lastSync{}, locked: map[types.UID]bool{}, orphanedSince: map[string]time.Time{},
		settings: adminSettings{
			Scheme: cmp.Or(o.Scheme, Schemes[0]), Probe: cmp.Or(o.HealthProbe, probeKubeProxy), Tags: o.Tags, NodePorts: o.NodePorts,
		},
	}
	c.unlocked = sync.NewCond(&c.mu)
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.options.Nodes == nil {
		c.options.Nodes = func() []*corev1.Node { return nil }
	}
	if c.options.Resync == 0 {
		c.options.Resync = 10 * time.Minute
	}
	// A short Resync shortens the other periods as well: they must not be longer
	// than the time between two comparisons.
	c.pollInterval, c.gracePeriod = min(maxPollInterval, c.options.Resync), min(maxGracePeriod, c.options.Resync)
	// A comparison must not use what the comparison before it has read.
	age := c.options.Resync / 2
	listAge := min(maxListAge, age)
	c.sharedGroup.retry = minCheckRetry
	c.sharedGroup.maxAge, c.instances.maxAge, c.subnets.maxAge = age, age, age
	c.loadBalancers = listCache[elb.LoadBalancer]{
		prefix: c.names.prefix, maxAge: listAge, list: c.listLoadBalancers,
		name: func(b elb.LoadBalancer) string { return aws.ToString(b.LoadBalancerName) },
	}
	c.targetGroups = listCache[elb.TargetGroup]{
		prefix: c.names.prefix, maxAge: listAge, list: c.listTargetGroups,
		name: func(g elb.TargetGroup) string { return aws.ToString(g.TargetGroupName) },
	}
	if s := c.settings.Scheme; !slices.Contains(Schemes, s) {
		return nil, fmt.Errorf("scheme %q: must be one of %s", s, strings.Join(Schemes, ", "))
	}
	if p := c.settings.Probe; !slices.Contains(HealthProbes, p) {
		return nil, fmt.Errorf("health probe %q: must be one of %s", p, strings.Join(HealthProbes, ", "))
	}
	// A reserved key would overwrite a tag by which objects are identified.
	for k := range o.Tags {
		if reservedTag(k) {
			return nil, fmt.Errorf("tag %q: the key is reserved", k)
		}
	}
	if c.settings.NodePorts == [2]int32{} {
		// This is the default of the API server's --service-node-port-range.
		c.settings.NodePorts = [2]int32{30000, 32767}
	}
	registerMetrics()
	return c, nil
}

// Initialize does nothing (cloudprovider.Interface).
func (c *Cloud) Initialize(cloudprovider.ControllerClientBuilder, <-chan struct{}) {}

// LoadBalancer returns the Cloud itself (cloudprovider.Interface).
func (c *Cloud) LoadBalancer() (cloudprovider.LoadBalancer, bool) { return c, true }

// Instances is not offered (cloudprovider.Interface).
func (c *Cloud) Instances() (cloudprovider.Instances, bool) { return nil, false }

// InstancesV2 is not offered: with it the framework's node controllers would
// delete nodes (cloudprovider.Interface).
func (c *Cloud) InstancesV2() (cloudprovider.InstancesV2, bool) { return nil, false }

// Zones is not offered (cloudprovider.Interface).
func (c *Cloud) Zones() (cloudprovider.Zones, bool) { return nil, false }

// Clusters is not offered (cloudprovider.Interface).
func (c *Cloud) Clusters() (cloudprovider.Clusters, bool) { return nil, false }

// Routes is not offered (cloudprovider.Interface).
func (c *Cloud) Routes() (cloudprovider.Routes, bool) { return nil, false }

// ProviderName is "aws" (cloudprovider.Interface).
func (c *Cloud) ProviderName() string { return ProviderName }

// HasClusterID reports whether the cluster has a name (cloudprovider.Interface).
func (c *Cloud) HasClusterID() bool { return c.options.Cluster != "" }
