package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/fairlead-io/fairlead/config/client"
)

// readCluster reads everything that a decision can depend on from the API
// server, and says what it could not read but can do without.
func readCluster(ctx context.Context, restConfig *rest.Config) (i *inventory, notes []string, err error) {
	restConfig = rest.CopyConfig(restConfig)
	restConfig.QPS = -1 // a dozen lists, once
	kube, err := kubernetes.NewForConfig(restConfig)
	if err != nil {
		return nil, nil, fmt.Errorf("make an API client: %w", err)
	}
	fairlead, err := client.New(restConfig)
	if err != nil {
		return nil, nil, err
	}
	i = new(inventory)
	if err := readFairlead(ctx, fairlead, i); err != nil {
		return nil, nil, err
	}
	all := metav1.ListOptions{}
	services, err := kube.CoreV1().Services(metav1.NamespaceAll).List(ctx, all)
	if err != nil {
		return nil, nil, fmt.Errorf("list Services: %w", err)
	}
	nodes, err := kube.CoreV1().Nodes().List(ctx, all)
	if err != nil {
		return nil, nil, fmt.Errorf("list Nodes: %w", err)
	}
	endpoints, err := kube.DiscoveryV1().EndpointSlices(metav1.NamespaceAll).List(ctx, all)
	if err != nil {
		return nil, nil, fmt.Errorf("list EndpointSlices: %w", err)
	}
	i.services, i.nodes, i.slices = pointers(services.Items), pointers(nodes.Items), pointers(endpoints.Items)

	namespaces, err := kube.CoreV1().Namespaces().List(ctx, all)
	switch {
	case apierrors.IsForbidden(err):
		notes = append(notes, "may not list Namespaces: where pools have namespaceSelectors, what Services would newly get is not known")
	case err != nil:
		return nil, nil, fmt.Errorf("list Namespaces: %w", err)
	default:
		i.namespaces = pointers(namespaces.Items)
	}
	cidrs, err := kube.NetworkingV1().ServiceCIDRs().List(ctx, all)
	switch {
	case apierrors.IsForbidden(err):
		notes = append(notes, "may not list ServiceCIDRs: addresses of ClusterIPs are not known to be reserved")
	case apierrors.IsNotFound(err):
		// Served since Kubernetes 1.33; the controller does without them too.
	case err != nil:
		return nil, nil, fmt.Errorf("list ServiceCIDRs: %w", err)
	default:
		i.cidrs = pointers(cidrs.Items)
	}
	return i, notes, nil
}

// readFairlead reads Fairlead's own kinds.
func readFairlead(ctx context.Context, c *client.Client, i *inventory) error {
	all := metav1.ListOptions{}
	pools, err := c.Pools.List(ctx, all)
	if apierrors.IsNotFound(err) {
		return errors.New("the CRDs of Fairlead are not installed in this cluster: kubectl apply --server-side -k deploy")
	}
	if err != nil {
		return fmt.Errorf("list IPAddressPools: %w", err)
	}
	l2ads, err := c.L2Advertisements.List(ctx, all)
	if err != nil {
		return fmt.Errorf("list L2Advertisements: %w", err)
	}
	peers, err := c.BGPPeers.List(ctx, all)
	if err != nil {
		return fmt.Errorf("list BGPPeers: %w", err)
	}
	bgpads, err := c.BGPAdvertisements.List(ctx, all)
	if err != nil {
		return fmt.Errorf("list BGPAdvertisements: %w", err)
	}
	profiles, err := c.BFDProfiles.List(ctx, all)
	if err != nil {
		return fmt.Errorf("list BFDProfiles: %w", err)
	}
	communities, err := c.Communities.List(ctx, all)
	if err != nil {
		return fmt.Errorf("list Communities: %w", err)
	}
	speakers, err := c.Speakers.List(ctx, all)
	if err != nil {
		return fmt.Errorf("list Speakers: %w", err)
	}
	i.Pools, i.L2Advertisements, i.BGPPeers = pointers(pools.Items), pointers(l2ads.Items), pointers(peers.Items)
	i.BGPAdvertisements, i.BFDProfiles, i.Communities = pointers(bgpads.Items), pointers(profiles.Items), pointers(communities.Items)
	i.speakers = pointers(speakers.Items)
	return nil
}

func pointers[T any](items []T) []*T {
	out := make([]*T, len(items))
	for i := range items {
		out[i] = &items[i]
	}
	return out
}

// readDumps reads what other commands have written: kubectl get -o yaml, or
// fairlead dump.
func readDumps(paths []string, stdin io.Reader) (*inventory, []string, error) {
	r := reader{into: new(inventory), skipped: map[string]int{}}
	for _, path := range paths {
		if err := r.readFile(path, stdin); err != nil {
			return nil, nil, fmt.Errorf("read a dump: %w", err)
		}
	}
	return r.into, append(r.unread(), r.into.gaps()...), nil
}
