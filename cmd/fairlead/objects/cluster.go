package objects

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/fairlead-io/fairlead/config/client"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// FromCluster lists all objects from the API server. Listing Namespaces, ServiceCIDRs
// and Events may be forbidden, and the CRDs of some of Fairlead's kinds may be missing,
// in which case there is a note; any other list that fails is an error.
func FromCluster(ctx context.Context, restConfig *rest.Config) (c *Collection, notes []string, err error) {
	restConfig = rest.CopyConfig(restConfig)
	restConfig.QPS = -1 // only a dozen requests
	kube, err := kubernetes.NewForConfig(restConfig)
	if err != nil {
		return nil, nil, fmt.Errorf("create API client: %w", err)
	}
	fairlead, err := client.New(restConfig)
	if err != nil {
		return nil, nil, err
	}
	c = new(Collection)
	for _, l := range clusterListings(kube, fairlead) {
		list, err := l.list(ctx, metav1.ListOptions{})
		switch {
		case apierrors.IsForbidden(err) && l.ifForbidden != "":
			notes = append(notes, "listing "+l.kinds+" is forbidden: "+l.ifForbidden)
			continue
		// The kind is newer than the cluster, which cannot have objects of it.
		case apierrors.IsNotFound(err) && l.optional:
			continue
		case apierrors.IsNotFound(err) && l.crd != "":
			c.MissingCRDs = append(c.MissingCRDs, l.crd)
			notes = append(notes, "CustomResourceDefinition "+l.crd+" is not installed: "+l.kinds+" are unknown")
			continue
		case err != nil:
			return nil, nil, fmt.Errorf("list %s: %w", l.kinds, err)
		}
		if err := apimeta.EachListItem(list, func(o runtime.Object) error { c.put(o); return nil }); err != nil {
			return nil, nil, fmt.Errorf("list %s: %w", l.kinds, err)
		}
	}
	if len(c.MissingCRDs) == fairleadKinds {
		return nil, nil, errNoCRDs
	}
	return c, notes, nil
}

// SystemNamespace is the namespace of the manifests, and ControllerName and SpeakerName the
// names of the programs in them and in their Events.
const (
	SystemNamespace = "fairlead-system"
	ControllerName  = "fairlead-controller"
	SpeakerName     = "fairlead-speaker"
)

// fairleadKinds is the number of Fairlead's kinds.
const fairleadKinds = 8

// listing describes how the objects of one kind are listed.
type listing struct {
	kinds       string
	list        listFunc
	ifForbidden string // the consequence; "" if the list is required
	crd         string // name of the CustomResourceDefinition; "" for kinds of Kubernetes
	optional    bool   // not served by all supported versions of Kubernetes
}

func clusterListings(kube kubernetes.Interface, fairlead *client.Client) []listing {
	return []listing{
		{kinds: "IPAddressPools", list: listFuncOf(fairlead.Pools.List), crd: "ipaddresspools.fairlead.io"},
		{kinds: "L2Advertisements", list: listFuncOf(fairlead.L2Advertisements.List), crd: "l2advertisements.fairlead.io"},
		{kinds: "BGPPeers", list: listFuncOf(fairlead.BGPPeers.List), crd: "bgppeers.fairlead.io"},
		{kinds: "BGPAdvertisements", list: listFuncOf(fairlead.BGPAdvertisements.List), crd: "bgpadvertisements.fairlead.io"},
		{kinds: "BFDProfiles", list: listFuncOf(fairlead.BFDProfiles.List), crd: "bfdprofiles.fairlead.io"},
		{kinds: "Communities", list: listFuncOf(fairlead.Communities.List), crd: "communities.fairlead.io"},
		{kinds: "Speakers", list: listFuncOf(fairlead.Speakers.List), crd: "speakers.fairlead.io"},
		{kinds: "L2Nodes", list: listFuncOf(fairlead.L2Nodes.List), crd: "l2nodes.fairlead.io"},
		{kinds: "Services", list: listFuncOf(kube.CoreV1().Services(metav1.NamespaceAll).List)},
		{kinds: "Nodes", list: listFuncOf(kube.CoreV1().Nodes().List)},
		{kinds: "EndpointSlices", list: listFuncOf(kube.DiscoveryV1().EndpointSlices(metav1.NamespaceAll).List)},
		{
			kinds: "Namespaces", list: listFuncOf(kube.CoreV1().Namespaces().List),
			ifForbidden: "new addresses from pools with namespaceSelectors are unknown",
		},
		{ // served since Kubernetes 1.33
			kinds: "ServiceCIDRs", list: listFuncOf(kube.NetworkingV1().ServiceCIDRs().List), optional: true,
			ifForbidden: "the ClusterIP ranges are not reserved",
		},
		{
			kinds: "Events", ifForbidden: "whether the controllers serve their metrics is unknown",
			list: listPodEvents(kube, ControllerName),
		},
		{
			kinds: "Events", ifForbidden: "whether the speakers serve their metrics is unknown",
			list: listPodEvents(kube, SpeakerName),
		},
		{
			kinds: "Events", ifForbidden: "since when nodes announce addresses is unknown",
			list: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
				options.FieldSelector = "involvedObject.kind=Service,reason=" + v1alpha1.EventAnnouncing
				return kube.CoreV1().Events(metav1.NamespaceAll).List(ctx, options)
			},
		},
	}
}

// listPodEvents lists the Events of a program about its Pods.
func listPodEvents(kube kubernetes.Interface, program string) listFunc {
	return func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		options.FieldSelector = "involvedObject.kind=Pod,source=" + program
		return kube.CoreV1().Events(SystemNamespace).List(ctx, options)
	}
}

var errNoCRDs = errors.New("the CRDs of Fairlead are not installed in this cluster; install them: kubectl apply --server-side -k deploy")

// listFunc is the List method of a client for any kind.
type listFunc func(context.Context, metav1.ListOptions) (runtime.Object, error)

func listFuncOf[L runtime.Object](list func(context.Context, metav1.ListOptions) (L, error)) listFunc {
	return func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		return list(ctx, options)
	}
}
