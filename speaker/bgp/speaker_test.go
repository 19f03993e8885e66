package bgp

import (
	"maps"
	"net/netip"
	"testing"
	"time"
)

func TestTellsRoutes(t *testing.T) {
	r := newRouter(t)
	want := routesTo(prefixes(3, false)...)
	s, _ := runSpeaker(t, State{[]Peer{r.peer("tor", want)}})
	awaitState(t, s, "tor", Established)
	r.knows(want)

	more := maps.Clone(want)
	more[netip.MustParsePrefix("203.0.113.0/24")] = Attributes{
		MED: 7, HasMED: true, Prepend: 2, Communities: "64512:100 65535:0 64512:1:2", LocalPref: 300,
	}
	delete(more, prefixes(1, false)[0])
	s.Set(State{[]Peer{r.peer("tor", more)}})
	r.knows(more)
	r.mu.Lock()
	got := r.table[netip.MustParsePrefix("203.0.113.0/24")]
	r.mu.Unlock()
	const exact = "{Origin: i}{AsPath: 64512 64512 64512}{Med: 7}{Communities: 64512:100, planned-shut}{LargeCommunity: [ 64512:1:2]}{Nexthop: 127.0.0.1}"
	if got != exact {
		t.Errorf("attributes %s\nnot        %s", got, exact)
	}
	st := statusOf(t, s, "tor")
	if st.Routes != 3 || st.Sessions != 1 || st.Lost != 0 || st.Remote.ASN != 64513 || st.Remote.RestartTime != 120*time.Second {
		t.Errorf("status %+v", st)
	}
	s.Set(State{})
	r.heard("Cease: peer de-configured")
}
