package main

import cloudprovider "k8s.io/cloud-provider"

// noCloud satisfies the framework, which wants a cloud. It has nothing to
// offer: no instances, or the framework's node controllers would delete nodes
// that it does not know, and no balancer, for the service controller is ours.
type noCloud struct{}

func (noCloud) Initialize(cloudprovider.ControllerClientBuilder, <-chan struct{}) {}

func (noCloud) LoadBalancer() (cloudprovider.LoadBalancer, bool) { return nil, false }

func (noCloud) Instances() (cloudprovider.Instances, bool) { return nil, false }

func (noCloud) InstancesV2() (cloudprovider.InstancesV2, bool) { return nil, false }

func (noCloud) Zones() (cloudprovider.Zones, bool) { return nil, false }

func (noCloud) Clusters() (cloudprovider.Clusters, bool) { return nil, false }

func (noCloud) Routes() (cloudprovider.Routes, bool) { return nil, false }

func (noCloud) ProviderName() string { return "fairlead" }

// HasClusterID is true, or the framework warns about a missing cloud tag.
func (noCloud) HasClusterID() bool { return true }
