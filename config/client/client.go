// Package client has typed clients and informers of Fairlead's own kinds, made from
// the generic parts of client-go.
package client

import (
	"context"
	"fmt"
	"log/slog"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/gentype"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// Object is a type that a Resource can have.
type Object interface {
	runtime.Object
	metav1.Object
}

// Resource reads and writes one cluster-scoped kind.
type Resource[T Object, L runtime.Object] struct {
	*gentype.ClientWithList[T, L]
	rest   rest.Interface
	crd    string // name of the CustomResourceDefinition
	object func() T
	list   func() L
}

// Client has a Resource for each kind.
type Client struct {
	Pools             Resource[*v1alpha1.IPAddressPool, *v1alpha1.IPAddressPoolList]
	L2Advertisements  Resource[*v1alpha1.L2Advertisement, *v1alpha1.L2AdvertisementList]
	BGPPeers          Resource[*v1alpha1.BGPPeer, *v1alpha1.BGPPeerList]
	BGPAdvertisements Resource[*v1alpha1.BGPAdvertisement, *v1alpha1.BGPAdvertisementList]
	BFDProfiles       Resource[*v1alpha1.BFDProfile, *v1alpha1.BFDProfileList]
	Communities       Resource[*v1alpha1.Community, *v1alpha1.CommunityList]
	Speakers          Resource[*v1alpha1.Speaker, *v1alpha1.SpeakerList]
	L2Nodes           Resource[*v1alpha1.L2Node, *v1alpha1.L2NodeList]
}

// New returns a Client. It sends JSON, the only encoding of custom resources, even if
// the configuration has another content type for built-in kinds.
func New(config *rest.Config) (*Client, error) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("register the kinds of %s: %w", v1alpha1.GroupVersion, err)
	}
	config = rest.CopyConfig(config)
	config.APIPath, config.GroupVersion = "/apis", &v1alpha1.GroupVersion
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	r, err := rest.RESTClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("create client for %s: %w", v1alpha1.GroupVersion, err)
	}
	codec := runtime.NewParameterCodec(scheme)
	return &Client{
		Pools: newResource(r, codec, "ipaddresspools",
			func() *v1alpha1.IPAddressPool { return &v1alpha1.IPAddressPool{} },
			func() *v1alpha1.IPAddressPoolList { return &v1alpha1.IPAddressPoolList{} }),
		L2Advertisements: newResource(r, codec, "l2advertisements",
			func() *v1alpha1.L2Advertisement { return &v1alpha1.L2Advertisement{} },
			func() *v1alpha1.L2AdvertisementList { return &v1alpha1.L2AdvertisementList{} }),
		BGPPeers: newResource(r, codec, "bgppeers",
			func() *v1alpha1.BGPPeer { return &v1alpha1.BGPPeer{} },
			func() *v1alpha1.BGPPeerList { return &v1alpha1.BGPPeerList{} }),
		BGPAdvertisements: newResource(r, codec, "bgpadvertisements",
			func() *v1alpha1.BGPAdvertisement { return &v1alpha1.BGPAdvertisement{} },
			func() *v1alpha1.BGPAdvertisementList { return &v1alpha1.BGPAdvertisementList{} }),
		BFDProfiles: newResource(r, codec, "bfdprofiles",
			func() *v1alpha1.BFDProfile { return &v1alpha1.BFDProfile{} },
			func() *v1alpha1.BFDProfileList { return &v1alpha1.BFDProfileList{} }),
		Communities: newResource(r, codec, "communities",
			func() *v1alpha1.Community { return &v1alpha1.Community{} },
			func() *v1alpha1.CommunityList { return &v1alpha1.CommunityList{} }),
		Speakers: newResource(r, codec, "speakers",
			func() *v1alpha1.Speaker { return &v1alpha1.Speaker{} },
			func() *v1alpha1.SpeakerList { return &v1alpha1.SpeakerList{} }),
		L2Nodes: newResource(r, codec, "l2nodes",
			func() *v1alpha1.L2Node { return &v1alpha1.L2Node{} },
			func() *v1alpha1.L2NodeList { return &v1alpha1.L2NodeList{} }),
	}, nil
}

func newResource[T Object, L runtime.Object](
	r rest.Interface, codec runtime.ParameterCodec, name string, object func() T, list func() L,
) Resource[T, L] {
	client := gentype.NewClientWithList(name, r, codec, "", object, list)
	return Resource[T, L]{client, r, name + "." + v1alpha1.GroupVersion.Group, object, list}
}

// newInformer returns an informer, and the kind that is its source. With a name, the
// informer lists and watches that object only.
func (r Resource[T, L]) newInformer(log *slog.Logger, changed func(), name string) (Source[T], *kind) {
	selector := fields.Everything()
	if name != "" {
		selector = fields.OneTermEqualSelector(metav1.ObjectNameField, name)
	}
	k := &kind{crd: r.crd, client: r.rest, log: log, changed: changed}
	k.informer = cache.NewSharedIndexInformer(k.listWatch(
		func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			options.FieldSelector = selector.String()
			return r.List(ctx, options)
		},
		func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.FieldSelector = selector.String()
			return r.Watch(ctx, options)
		},
		func() runtime.Object { return r.list() },
	), r.object(), 0, cache.Indexers{})
	return Source[T]{k.informer}, k
}

// Source is an informer for objects of one type.
type Source[T Object] struct{ cache.SharedIndexInformer }

// Objects returns all objects in the cache. They are shared and must not be changed.
func (s Source[T]) Objects() []T {
	stored := s.GetStore().List()
	objects := make([]T, len(stored))
	for i, o := range stored {
		objects[i] = o.(T)
	}
	return objects
}

// Get returns the object with the name, or nil.
func (s Source[T]) Get(name string) (object T) {
	if o, exists, err := s.GetStore().GetByKey(name); err == nil && exists {
		object = o.(T)
	}
	return object
}

// StripManagedFields is a transform for informers. It removes managedFields, which are
// not read and take most of the memory of small objects.
func StripManagedFields(object any) (any, error) {
	if o, ok := object.(metav1.Object); ok {
		o.SetManagedFields(nil)
	}
	return object, nil
}
