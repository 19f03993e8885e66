package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	cliflag "k8s.io/component-base/cli/flag"

	"github.com/fairlead-io/fairlead/cmd/health"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/controller/plan"
	"github.com/fairlead-io/fairlead/providers"
	"github.com/fairlead-io/fairlead/providers/aws"
)

// flags are Fairlead's own flags, in addition to those of the framework.
type flags struct {
	provider  string
	classless bool
	cleanup   bool
	nodePorts string
	portRange plan.PortRange // nodePorts, parsed by validate

	named         bool   // --cluster-name is set
	socket, check string // of the probes

	region, vpc    string
	groups         []string
	manageGroups   bool
	probe, scheme  string
	tags           map[string]string
	resync         time.Duration
	deletesOrphans bool
}

// namedFlagSets adds the flags to named sets, by which --help groups them.
func (f *flags) namedFlagSets() (sets cliflag.NamedFlagSets) {
	fs := sets.FlagSet("fairlead")
	fs.StringVar(&f.provider, "provider", string(providers.Auto), "Provider of Services without a loadBalancerClass: "+providerModes()+
		". auto: AWS if a node is an EC2 instance, otherwise bare metal; undecided while a node is not initialized."+
		" A Service keeps the provider that serves it until its annotation fairlead.io/provider names another one.")
	fs.BoolVar(&f.classless, "serve-services-without-class", true, "Serve Services without a loadBalancerClass."+
		" With false, only those that are already served stay; the others are left to another implementation.")
	fs.BoolVar(&f.cleanup, "bare-metal-cleanup-finalizer", false, "Set the finalizer "+v1alpha1.FinalizerCleanup+
		" on Services without a loadBalancerClass on bare metal, too, as the upstream service controller does."+
		" Their deletion then waits for this controller, although nothing must be cleaned up.")
	fs.StringVar(&f.nodePorts, "node-port-range", "30000-32767", "The API server's --service-node-port-range."+
		" Node ports are allocated from it for Services on AWS with allocateLoadBalancerNodePorts: false.")

	fs.StringVar(&f.socket, "health-socket", health.DefaultSocket, health.SocketHelp)
	fs.StringVar(&f.check, "probe", "", health.ProbeHelp)

	fs = sets.FlagSet("aws")
	fs.StringVar(&f.region, "aws-region", "", "AWS region of the load balancers."+
		" Default: from the environment, the nodes, or the instance metadata, in this order.")
	fs.StringVar(&f.vpc, "aws-vpc-id", "", "ID of the VPC of the load balancers. Default: the VPC of the nodes.")
	fs.StringSliceVar(&f.groups, "aws-node-security-groups", nil, "Security groups of the nodes that must admit traffic from the"+
		" load balancers, comma-separated. Default: the security group of each node; if a node has several, the one tagged"+
		" kubernetes.io/cluster/CLUSTER-NAME.")
	fs.BoolVar(&f.manageGroups, "aws-manage-node-security-groups", true, "Manage the rules of the nodes' security groups that admit"+
		" traffic from the load balancers.")
	fs.StringVar(&f.probe, "aws-health-probe", aws.HealthProbes[0], "Health check of nodes under externalTrafficPolicy Cluster: "+
		strings.Join(aws.HealthProbes, ", ")+".")
	fs.StringVar(&f.scheme, "aws-scheme", aws.Schemes[0], "Scheme of load balancers of Services without a scheme annotation: "+
		strings.Join(aws.Schemes, ", ")+".")
	fs.StringToStringVar(&f.tags, "aws-tags", nil, "Additional tags of all created AWS resources, KEY=VALUE, comma-separated.")
	fs.DurationVar(&f.resync, "aws-resync", 10*time.Minute, "Interval at which every load balancer is compared with its desired state,"+
		" even if nothing has changed.")
	fs.BoolVar(&f.deletesOrphans, "aws-delete-orphans", false, "Delete AWS resources of this cluster's Services that no longer exist."+
		" With false, they are only counted.")
	return sets
}

// validate returns an error that names the flag with an invalid value. It parses --node-port-range.
func (f *flags) validate() error {
	if !slices.Contains(providers.Modes, providers.Mode(f.provider)) {
		return fmt.Errorf("--provider=%q: must be one of %s", f.provider, providerModes())
	}
	var err error
	if f.portRange, err = plan.ParsePortRange(f.nodePorts); err != nil {
		return fmt.Errorf("--node-port-range: %w", err)
	}
	if !slices.Contains(aws.HealthProbes, f.probe) {
		return fmt.Errorf("--aws-health-probe=%q: must be one of %s", f.probe, strings.Join(aws.HealthProbes, ", "))
	}
	if !slices.Contains(aws.Schemes, f.scheme) {
		return fmt.Errorf("--aws-scheme=%q: must be one of %s", f.scheme, strings.Join(aws.Schemes, ", "))
	}
	if _, err := aws.New(aws.Options{Cluster: "any", Scheme: f.scheme, HealthProbe: f.probe, Tags: f.tags}); err != nil {
		return fmt.Errorf("--aws-tags: %w", err)
	}
	if f.resync <= 0 {
		return fmt.Errorf("--aws-resync=%s: must be greater than 0", f.resync)
	}
	return nil
}

// providerPolicy returns how the flags assign Services to providers.
func (f *flags) providerPolicy() providers.Policy {
	p := providers.Policy{Mode: providers.Mode(f.provider), ClassedOnly: !f.classless, CleanupFinalizer: f.cleanup}
	if !f.named {
		p.AWSLacks = "AWS requires the controller's flag --cluster-name, with a name that is unique in the AWS account"
	}
	return p
}

func providerModes() string {
	var all []string
	for _, m := range providers.Modes {
		all = append(all, string(m))
	}
	return strings.Join(all, ", ")
}
