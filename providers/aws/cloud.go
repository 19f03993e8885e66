package aws

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	cloudprovider "k8s.io/cloud-provider"
)

// ProviderName is what this cloud is called.
const ProviderName = "aws"

// Values of Options.HealthProbe.
const (
	probeKubeProxy = "kube-proxy"
	probeNodePort  = "node-port"
)

// What Options.HealthProbe and Options.Scheme may be; the first is the default.
var (
	HealthProbes = []string{probeKubeProxy, probeNodePort}
	Schemes      = []string{"internet-facing", "internal"}
)

// Options are what the administrator decides.
type Options struct {
	Cluster string // tells the cluster's objects from other clusters'; without it nothing is served
	Region  string // "": that of the environment, the nodes, or the instance
	VPC     string // "": that of the nodes, or the instance
	// Nodes are all nodes, to find out the region.
	Nodes func() []*corev1.Node
	// NodeSecurityGroups shall admit the balancers; none: those of the nodes,
	// tagged kubernetes.io/cluster/CLUSTER if there are several.
	NodeSecurityGroups []string
	// ManageNodeSecurityGroups adds the rule to them that admits the balancers.
	ManageNodeSecurityGroups bool
	// HealthProbe is what is asked for a node's health under
	// externalTrafficPolicy Cluster: "kube-proxy" or "node-port".
	HealthProbe string
	Scheme      string            // of Services that do not say: "internet-facing" or "internal"
	Tags        map[string]string // on everything, beside a Service's own
	NodePorts   [2]int32          // the API server's --service-node-port-range; none is its default
	// Resync is how often an unchanged balancer is compared with what it shall be.
	Resync        time.Duration
	DeleteOrphans bool // else they are only counted
	Log           *slog.Logger
	// Load are further options for the SDK's configuration.
	Load []func(*config.LoadOptions) error
}

// Cloud is AWS. It implements cloudprovider.Interface with balancers alone.
type Cloud struct {
	options  Options
	settings settings
	names    names
	log      *slog.Logger
	fresh    time.Duration // how old the inventory may be
	again    time.Duration // until another look at what AWS has not finished
	grace    time.Duration // of a balancer that was replaced

	mu    sync.Mutex // guards what follows
	conn  *conn      // nil until the first Service
	known map[types.UID]*memory

	locks     keyed
	inventory inventory
	network   network
	shared    shared
	sweep     map[string]time.Time // orphans, since when
}

// New checks the options. It calls nobody: AWS is spoken to when the first
// Service comes.
func New(o Options) (*Cloud, error) {
	c := &Cloud{
		options: o, names: names{o.Cluster}, log: o.Log,
		known: map[types.UID]*memory{}, sweep: map[string]time.Time{},
		settings: settings{Scheme: cmpOr(o.Scheme, Schemes[0]), Probe: cmpOr(o.HealthProbe, probeKubeProxy), Tags: o.Tags, NodePorts: o.NodePorts},
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.options.Nodes == nil {
		c.options.Nodes = func() []*corev1.Node { return nil }
	}
	if c.options.Resync == 0 {
		c.options.Resync = 10 * time.Minute
	}
	c.fresh, c.again, c.grace = min(fresh, c.options.Resync/2), min(askAgain, c.options.Resync), min(grace, c.options.Resync)
	if s := c.settings.Scheme; !slices.Contains(Schemes, s) {
		return nil, fmt.Errorf("scheme %q: must be one of %s", s, strings.Join(Schemes, ", "))
	}
	if p := c.settings.Probe; !slices.Contains(HealthProbes, p) {
		return nil, fmt.Errorf("health probe %q: must be one of %s", p, strings.Join(HealthProbes, ", "))
	}
	for k := range o.Tags {
		if reservedTag(k) {
			return nil, fmt.Errorf("tag %q: the key is reserved", k)
		}
	}
	if c.settings.NodePorts == [2]int32{} {
		c.settings.NodePorts = [2]int32{30000, 32767}
	}
	register()
	return c, nil
}

// Initialize has nothing to do (cloudprovider.Interface).
func (c *Cloud) Initialize(cloudprovider.ControllerClientBuilder, <-chan struct{}) {}

// LoadBalancer is what this cloud has to offer (cloudprovider.Interface).
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
