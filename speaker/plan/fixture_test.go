package plan

import "github.com/fairlead-io/fairlead/config/fixture"

var (
	node     = fixture.Node
	labelled = fixture.Labelled
	tainted  = fixture.Tainted
	service  = fixture.Assigned

	notReady  = fixture.NotReady
	local     = fixture.Local
	checkedOn = fixture.WithHealthCheck
	endpoints = fixture.EndpointSlice
	peer      = fixture.BGPPeer
	bgpad     = fixture.BGPAdvertisement
)
