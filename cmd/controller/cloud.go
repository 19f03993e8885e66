package main

import (
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	cloudprovider "k8s.io/cloud-provider"

	"github.com/fairlead-io/fairlead/providers/aws"
)

// newCloud returns the AWS provider as the flags configure it. It makes no call to
// AWS before a Service needs it.
func (f *flags) newCloud(cluster string, log *slog.Logger, nodes func() []*corev1.Node) (cloudprovider.LoadBalancer, error) {
	cloud, err := aws.New(aws.Options{
		Cluster: cluster, Region: f.region, VPC: f.vpc, Nodes: nodes,
		NodeSecurityGroups: f.groups, ManageNodeSecurityGroups: f.manageGroups,
		HealthProbe: f.probe, Scheme: f.scheme, Tags: f.tags, NodePorts: [2]int32{f.portRange.Low, f.portRange.High},
		Resync: f.resync, DeleteOrphans: f.deletesOrphans, Log: log,
	})
	if err != nil {
		return nil, fmt.Errorf("configure AWS: %w", err)
	}
	return cloud, nil
}

// noCloud satisfies the framework, which requires a cloud. It implements nothing:
// no instances, because the framework's node controllers would delete nodes that
// it does not know, and no load balancers, because Fairlead has its own service
// controller.
type noCloud struct{}

func (noCloud) Initialize(cloudprovider.ControllerClientBuilder, <-chan struct{}) {}

func (noCloud) LoadBalancer() (cloudprovider.LoadBalancer, bool) { return nil, false }

func (noCloud) Instances() (cloudprovider.Instances, bool) { return nil, false }

func (noCloud) InstancesV2() (cloudprovider.InstancesV2, bool) { return nil, false }

func (noCloud) Zones() (cloudprovider.Zones, bool) { return nil, false }

func (noCloud) Clusters() (cloudprovider.Clusters, bool) { return nil, false }

func (noCloud) Routes() (cloudprovider.Routes, bool) { return nil, false }

func (noCloud) ProviderName() string { return "fairlead" }

// HasClusterID returns true; otherwise the framework warns about a missing cloud tag.
func (noCloud) HasClusterID() bool { return true }
