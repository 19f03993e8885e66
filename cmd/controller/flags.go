package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	cliflag "k8s.io/component-base/cli/flag"

	"github.com/fairlead-io/fairlead/controller/plan"
	"github.com/fairlead-io/fairlead/providers"
	"github.com/fairlead-io/fairlead/providers/aws"
)

// flags are Fairlead's own, beside those of the framework.
type flags struct {
	provider  string
	classless bool
	nodePorts string
	portRange plan.PortRange // nodePorts, once checked

	named bool // the cluster has a name of its own

	region, vpc    string
	groups         []string
	manageGroups   bool
	probe, scheme  string
	tags           map[string]string
	resync         time.Duration
	deletesOrphans bool
}

func (f *flags) sets() (sets cliflag.NamedFlagSets) {
	fs := sets.FlagSet("fairlead")
	fs.StringVar(&f.provider, "provider", string(providers.Auto), "Who serves Services without a loadBalancerClass: "+modes()+". auto: AWS if a node is an instance there, else bare metal, and nobody while a node is not initialized yet. A Service stays with the provider that serves it; its annotation fairlead.io/provider moves it.")
	fs.BoolVar(&f.classless, "serve-services-without-class", true, "Serve Services without a loadBalancerClass. false leaves them to another implementation, but for those that are served already.")
	fs.StringVar(&f.nodePorts, "node-port-range", "30000-32767", "The API server's --service-node-port-range. Node ports are chosen from it for Services on AWS whose allocateLoadBalancerNodePorts is false.")

	fs = sets.FlagSet("aws")
	fs.StringVar(&f.region, "aws-region", "", "The region of the balancers. Without it: that of the environment, of the nodes, or of the instance the controller runs on.")
	fs.StringVar(&f.vpc, "aws-vpc-id", "", "The VPC of the balancers. Without it: that of the nodes.")
	fs.StringSliceVar(&f.groups, "aws-node-security-groups", nil, "The nodes' security groups that shall admit the balancers, comma-separated. Without it: those of the nodes, tagged kubernetes.io/cluster/CLUSTER-NAME if a node has several.")
	fs.BoolVar(&f.manageGroups, "aws-manage-node-security-groups", true, "Add the rules to the nodes' security groups that admit the balancers.")
	fs.StringVar(&f.probe, "aws-health-probe", aws.HealthProbes[0], "What balancers ask for a node's health under externalTrafficPolicy Cluster: "+strings.Join(aws.HealthProbes, ", ")+".")
	fs.StringVar(&f.scheme, "aws-scheme", aws.Schemes[0], "The scheme of balancers whose Service names none: "+strings.Join(aws.Schemes, ", ")+".")
	fs.StringToStringVar(&f.tags, "aws-tags", nil, "Tags for everything that is made, KEY=VALUE, comma-separated.")
	fs.DurationVar(&f.resync, "aws-resync", 10*time.Minute, "How often a balancer to which nothing has happened is compared with what it shall be.")
	fs.BoolVar(&f.deletesOrphans, "aws-delete-orphans", false, "Delete what was made for Services of this cluster that are gone. false only counts it.")
	return sets
}

// check names the flag whose value cannot be used.
func (f *flags) check() error {
	if !slices.Contains(providers.Modes, providers.Mode(f.provider)) {
		return fmt.Errorf("--provider=%q: must be one of %s", f.provider, modes())
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
	if f.resync <= 0 {
		return fmt.Errorf("--aws-resync=%s: must be more than nothing", f.resync)
	}
	return nil
}

// policy is what the flags say about whose a Service is.
func (f *flags) policy() providers.Policy {
	p := providers.Policy{Mode: providers.Mode(f.provider), ClassedOnly: !f.classless}
	if !f.named {
		p.AWSLacks = "AWS needs the controller's flag --cluster-name: a name that no other cluster of the AWS account has"
	}
	return p
}

func modes() string {
	var all []string
	for _, m := range providers.Modes {
		all = append(all, string(m))
	}
	return strings.Join(all, ", ")
}
