package main

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/client"
	"github.com/fairlead-io/fairlead/controller"
	"github.com/fairlead-io/fairlead/speaker"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

// world is what the API server shows now.
type world struct {
	cluster controller.Snapshot
	nodes   speaker.Snapshot
}

// look reads everything that the two decisions depend on.
func look(ctx context.Context, access clientcmd.ClientConfig) (w world, err error) {
	restConfig, err := access.ClientConfig()
	if err != nil {
		return w, fmt.Errorf("read the kubeconfig: %w", err)
	}
	kube, err := kubernetes.NewForConfig(restConfig)
	if err != nil {
		return w, fmt.Errorf("make an API client: %w", err)
	}
	fairlead, err := client.New(restConfig)
	if err != nil {
		return w, err
	}
	all := metav1.ListOptions{}
	services, err := kube.CoreV1().Services(metav1.NamespaceAll).List(ctx, all)
	if err != nil {
		return w, fmt.Errorf("list Services: %w", err)
	}
	nodes, err := kube.CoreV1().Nodes().List(ctx, all)
	if err != nil {
		return w, fmt.Errorf("list Nodes: %w", err)
	}
	endpoints, err := kube.DiscoveryV1().EndpointSlices(metav1.NamespaceAll).List(ctx, all)
	if err != nil {
		return w, fmt.Errorf("list EndpointSlices: %w", err)
	}
	if w.cluster.Objects, err = objects(ctx, fairlead); err != nil {
		return w, err
	}
	speakers, err := fairlead.Speakers.List(ctx, all)
	if err != nil {
		return w, fmt.Errorf("list Speakers: %w", err)
	}
	w.cluster.Services, w.cluster.Nodes, w.cluster.Speakers = pointers(services.Items), pointers(nodes.Items), pointers(speakers.Items)
	w.nodes = speaker.Snapshot{
		Services: w.cluster.Services, Nodes: w.cluster.Nodes, Slices: pointers(endpoints.Items),
		Links: map[string][]l2.Link{},
	}
	w.nodes.Config, _ = config.Parse(w.cluster.Objects)
	for _, s := range w.cluster.Speakers {
		w.nodes.Links[s.Name] = speaker.LinksOf(s)
	}
	return w, nil
}

// objects reads what the user asked for.
func objects(ctx context.Context, c *client.Client) (o config.Objects, err error) {
	all := metav1.ListOptions{}
	pools, err := c.Pools.List(ctx, all)
	if apierrors.IsNotFound(err) {
		return o, errors.New("the CRDs of Fairlead are not installed in this cluster: kubectl apply --server-side -k deploy")
	}
	if err != nil {
		return o, fmt.Errorf("list IPAddressPools: %w", err)
	}
	l2ads, err := c.L2Advertisements.List(ctx, all)
	if err != nil {
		return o, fmt.Errorf("list L2Advertisements: %w", err)
	}
	peers, err := c.BGPPeers.List(ctx, all)
	if err != nil {
		return o, fmt.Errorf("list BGPPeers: %w", err)
	}
	bgpads, err := c.BGPAdvertisements.List(ctx, all)
	if err != nil {
		return o, fmt.Errorf("list BGPAdvertisements: %w", err)
	}
	profiles, err := c.BFDProfiles.List(ctx, all)
	if err != nil {
		return o, fmt.Errorf("list BFDProfiles: %w", err)
	}
	communities, err := c.Communities.List(ctx, all)
	if err != nil {
		return o, fmt.Errorf("list Communities: %w", err)
	}
	return config.Objects{
		Pools: pointers(pools.Items), L2Advertisements: pointers(l2ads.Items),
		BGPPeers: pointers(peers.Items), BGPAdvertisements: pointers(bgpads.Items),
		BFDProfiles: pointers(profiles.Items), Communities: pointers(communities.Items),
	}, nil
}

func pointers[T any](items []T) []*T {
	out := make([]*T, len(items))
	for i := range items {
		out[i] = &items[i]
	}
	return out
}
