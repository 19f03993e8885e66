package bgp

import (
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestAdvertisedRoutes(t *testing.T) {
	r := newRouter(t)
	want := routesTo(prefixes(3, false)...)
	s, _ := runSpeaker(t, Config{[]Peer{r.peer("tor", want)}})
	awaitState(t, s, "tor", Established)
	r.awaitRoutes(want)

	more := maps.Clone(want)
	more[netip.MustParsePrefix("203.0.113.0/24")] = Attributes{
		MED: 7, HasMED: true, Prepend: 2, Communities: "64512:100 65535:0 64512:1:2", LocalPref: 300,
	}
	delete(more, prefixes(1, false)[0])
	s.Set(Config{[]Peer{r.peer("tor", more)}})
	r.awaitRoutes(more)
	r.mu.Lock()
	got := r.table[netip.MustParsePrefix("203.0.113.0/24")]
	r.mu.Unlock()
	const exact = "{Origin: i}{AsPath: 64512 64512 64512}{Nexthop: 127.0.0.1}{Med: 7}" +
		"{Communities: 64512:100, planned-shut}{LargeCommunity: [ 64512:1:2]}"
	if got != exact {
		t.Errorf("attributes %s\nnot        %s", got, exact)
	}
	st := statusOf(t, s, "tor")
	if st.Routes != 3 || st.Sessions != 1 || st.Lost != 0 || st.Remote.ASN != 64513 || st.Remote.RestartTime != 120*time.Second {
		t.Errorf("status %+v", st)
	}
	s.Set(Config{})
	r.awaitNotification("Cease: peer de-configured")
}

// TestInvalidRoutes checks that a route that does not fit in a message is
// reported and does not affect others.
func TestInvalidRoutes(t *testing.T) {
	r := newRouter(t)
	good := routesTo(prefixes(3, false)...)
	all := maps.Clone(good)
	all[netip.MustParsePrefix("203.0.113.1/32")] = Attributes{Communities: "no-export"}
	all[netip.MustParsePrefix("203.0.113.2/32")] = Attributes{Communities: strings.Repeat("1:2:3 ", 400)}
	s, _ := runSpeaker(t, Config{[]Peer{r.peer("tor", all)}})
	r.awaitRoutes(good)
	eventually(t, func() string {
		const want = `2 routes, such as 203.0.113.1/32: invalid community "no-export": must have 2 or 3 parts, but has 1`
		if st := statusOf(t, s, "tor"); st.Withheld != want || st.Routes != 3 {
			return fmt.Sprintf("status %+v", st)
		}
		return ""
	})
	// The most that fits, also with long AS paths.
	long := maps.Clone(good)
	for p := range long {
		long[p] = Attributes{Prepend: 255, Communities: strings.Repeat("1:2 ", 240)}
	}
	s.Set(Config{[]Peer{r.peer("tor", long)}})
	eventually(t, func() string {
		r.mu.Lock()
		defer r.mu.Unlock()
		for p, words := range r.table {
			if strings.Count(words, "64512") != 256 {
				return p.String() + " has " + words
			}
		}
		return ""
	})
}

// TestTwoOctetPeer has a peer without four-octet ASNs (RFC 6793).
func TestTwoOctetPeer(t *testing.T) {
	r := newRouter(t, func(r *fakeRouter) { r.open = newMessage(msgOpen, []byte{4, 0xfc, 0x01, 0, 90, 192, 0, 2, 254, 0}) })
	p := r.peer("tor", routesTo(prefixes(1, false)...))
	p.LocalASN, p.IPv6 = 4200000001, true
	s, _ := runSpeaker(t, Config{[]Peer{p}})
	st := awaitState(t, s, "tor", Established)
	r.awaitRoutes(p.Routes)
	r.mu.Lock()
	defer r.mu.Unlock()
	words := r.table[prefixes(1, false)[0]]
	if !strings.Contains(words, "{AsPath: 23456}") || !strings.Contains(words, "4200000001") {
		t.Errorf("the router knows %s", words)
	}
	if st.IPv6 || st.Remote.FourOctetASN || statusOf(t, s, "tor").Withheld != "IPv6: the peer does not have the family enabled" {
		t.Errorf("status %+v", st)
	}
}

// TestTTLSecurity checks that packets with a TTL of 64 are rejected.
func TestTTLSecurity(t *testing.T) {
	r := newRouter(t)
	p := r.peer("tor", nil)
	p.TTLSecurity, p.Hops = true, 192
	s, _ := runSpeaker(t, Config{[]Peer{p}})
	awaitState(t, s, "tor", Established)
	p.Hops = 191 // at least 65
	s.Set(Config{[]Peer{p}})
	awaitState(t, s, "tor", Connect)
	time.Sleep(time.Second)
	if st := statusOf(t, s, "tor"); st.State != Connect || st.Sessions != 1 {
		t.Errorf("status %+v", st)
	}
}
