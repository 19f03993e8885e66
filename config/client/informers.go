package client

import (
	"log/slog"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"

	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// Informers has an informer for each kind.
type Informers struct {
	Pools             Source[*v1alpha1.IPAddressPool]
	L2Advertisements  Source[*v1alpha1.L2Advertisement]
	BGPPeers          Source[*v1alpha1.BGPPeer]
	BGPAdvertisements Source[*v1alpha1.BGPAdvertisement]
	BFDProfiles       Source[*v1alpha1.BFDProfile]
	Communities       Source[*v1alpha1.Community]
	Speakers          Source[*v1alpha1.Speaker]
	L2Nodes           Source[*v1alpha1.L2Node]

	kinds []*kind // of the informers
}

// Informers returns informers for all kinds, which the caller must run. The log has a
// line when a kind is found missing, when changed is called as well, and one when it is
// served again. With a node, the Speaker of that node is watched instead of all Speakers.
func (c *Client) Informers(log *slog.Logger, changed func(), node string) Informers {
	var i Informers
	i.Pools = addInformer(&i, c.Pools, log, changed, "")
	i.L2Advertisements = addInformer(&i, c.L2Advertisements, log, changed, "")
	i.BGPPeers = addInformer(&i, c.BGPPeers, log, changed, "")
	i.BGPAdvertisements = addInformer(&i, c.BGPAdvertisements, log, changed, "")
	i.BFDProfiles = addInformer(&i, c.BFDProfiles, log, changed, "")
	i.Communities = addInformer(&i, c.Communities, log, changed, "")
	i.Speakers = addInformer(&i, c.Speakers, log, changed, node)
	i.L2Nodes = addInformer(&i, c.L2Nodes, log, changed, "")
	return i
}

func addInformer[T Object, L runtime.Object](
	i *Informers, r Resource[T, L], log *slog.Logger, changed func(), name string,
) Source[T] {
	source, k := r.newInformer(log, changed, name)
	i.kinds = append(i.kinds, k)
	return source
}

// All returns the informers as a list.
func (i Informers) All() (all []cache.SharedIndexInformer) {
	for _, k := range i.kinds {
		all = append(all, k.informer)
	}
	return all
}

// Objects returns the configuration from the caches.
func (i Informers) Objects() config.Objects {
	return config.Objects{
		Pools: i.Pools.Objects(), L2Advertisements: i.L2Advertisements.Objects(),
		BGPPeers: i.BGPPeers.Objects(), BGPAdvertisements: i.BGPAdvertisements.Objects(),
		BFDProfiles: i.BFDProfiles.Objects(), Communities: i.Communities.Objects(),
	}
}
