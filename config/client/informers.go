package client

import (
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
}

// Informers returns informers for all kinds, which the caller must run.
func (c *Client) Informers() Informers {
	return Informers{
		Pools:             c.Pools.newInformer(),
		L2Advertisements:  c.L2Advertisements.newInformer(),
		BGPPeers:          c.BGPPeers.newInformer(),
		BGPAdvertisements: c.BGPAdvertisements.newInformer(),
		BFDProfiles:       c.BFDProfiles.newInformer(),
		Communities:       c.Communities.newInformer(),
		Speakers:          c.Speakers.newInformer(),
	}
}

// All returns the informers as a list.
func (i Informers) All() []cache.SharedIndexInformer {
	return []cache.SharedIndexInformer{
		i.Pools.SharedIndexInformer, i.L2Advertisements.SharedIndexInformer, i.BGPPeers.SharedIndexInformer,
		i.BGPAdvertisements.SharedIndexInformer, i.BFDProfiles.SharedIndexInformer, i.Communities.SharedIndexInformer,
		i.Speakers.SharedIndexInformer,
	}
}

// Objects returns the configuration from the caches.
func (i Informers) Objects() config.Objects {
	return config.Objects{
		Pools: i.Pools.Objects(), L2Advertisements: i.L2Advertisements.Objects(),
		BGPPeers: i.BGPPeers.Objects(), BGPAdvertisements: i.BGPAdvertisements.Objects(),
		BFDProfiles: i.BFDProfiles.Objects(), Communities: i.Communities.Objects(),
	}
}
