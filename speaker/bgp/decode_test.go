package bgp

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
	"golang.org/x/sys/unix"

	"github.com/fairlead-io/fairlead/speaker/internal/netlinkdump"
)

func TestOpenRoundTrip(t *testing.T) {
	p := Peer{
		Session: Session{
			LocalASN: 4200000001, RouterID: netip.MustParseAddr("192.0.2.1"), IPv4: true, IPv6: true,
			HoldTime: 9 * time.Second, RestartTime: 2 * time.Hour,
		},
		Transport: Transport{Address: netip.MustParseAddr("2001:db8::1")},
	}
	b, err := encodeOpen(p)
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeOpen(b[headerLen:])
	want := Open{
		ASN: 4200000001, RouterID: p.RouterID, HoldTime: p.HoldTime, IPv4: true, IPv6: true,
		ExtendedNextHop: true, FourOctetASN: true, RouteRefresh: true,
		GracefulRestart: true, Restarting: true, RestartTime: restartTimeMax * time.Second,
	}
	if err != nil || got != want {
		t.Errorf("decoded %+v, %v\nnot     %+v", got, err, want)
	}
}

// TestOpenExtended decodes parameters with extended lengths (RFC 9072).
func TestOpenExtended(t *testing.T) {
	body := []byte{4, 0xfc, 0x01, 0, 90, 192, 0, 2, 1, 255, 255, 0, 9, 2, 0, 6, 1, 4, 0, 2, 0, 1}
	o, err := decodeOpen(body)
	if err != nil || o.IPv4 || !o.IPv6 || o.ASN != 64513 {
		t.Errorf("decoded %+v, %v", o, err)
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(routerOpen(f)[headerLen:])
	f.Add([]byte{4, 0, 1, 0, 90, 1, 1, 1, 1, 0})
	f.Add([]byte{4, 0xfc, 0x01, 0, 90, 192, 0, 2, 1, 255, 255, 0, 9, 2, 0, 6, 1, 4, 0, 2, 0, 1})
	f.Fuzz(func(t *testing.T, body []byte) {
		o, err := decodeOpen(body)
		if err != nil {
			return
		}
		_ = o.validate(Peer{Session: Session{IPv4: true}})
		// What GoBGP reads as well means the same to it.
		m := &bgp.BGPOpen{}
		if m.DecodeFromBytes(body) == nil && m.ID.String() != o.RouterID.String() {
			t.Errorf("router ID %s, GoBGP has %s", o.RouterID, m.ID)
		}
	})
}

// FuzzMessages decodes arbitrary messages.
func FuzzMessages(f *testing.F) {
	f.Add(append(routerOpen(f), keepalive...))
	f.Add(Notification{codeCease, ceaseShutdown, shutdownData("maintenance")}.encode())
	f.Add(newMessage(msgUpdate, []byte{0, 0, 0, 6, 0x80, 15, 3, 0, 2, 1}))
	f.Fuzz(func(t *testing.T, b []byte) {
		w := newMessageConn(reader{bytes.NewReader(b), nil})
		for {
			kind, body, err := w.readMessage()
			if err != nil {
				return
			}
			if len(body) > maxMessage-headerLen || len(body) < minLength[kind]-headerLen {
				t.Fatalf("a body of %d bytes for type %d", len(body), kind)
			}
			switch kind {
			case msgNotification:
				_ = decodeNotification(body).String()
			case msgUpdate:
				_ = isEndOfRIB(body)
			}
		}
	})
}

type reader struct {
	io.Reader
	net.Conn
}

func (r reader) Read(b []byte) (int, error) { return r.Reader.Read(b) }

func TestEndOfRIB(t *testing.T) {
	for _, family := range []bgp.RouteFamily{bgp.RF_IPv4_UC, bgp.RF_IPv6_UC} {
		b, err := bgp.NewEndOfRib(family).Serialize()
		if err != nil || !isEndOfRIB(b[headerLen:]) {
			t.Errorf("%s: % x, %v", family, b, err)
		}
	}
	if isEndOfRIB([]byte{0, 1, 0, 0, 0}) || isEndOfRIB([]byte{0, 0, 0, 3, 0x80, 14, 0}) {
		t.Error("took an UPDATE for End-of-RIB")
	}
}

func TestCommunities(t *testing.T) {
	standard, large, err := parseCommunities("64512:100 65535:0 64512:1:2")
	if err != nil || !reflect.DeepEqual(standard, []uint32{64512<<16 | 100, 65535 << 16}) || len(large) != 1 {
		t.Errorf("%v %v %v", standard, large, err)
	}
	for _, wrong := range []string{"1", "65536:1", "1:2:3:4", "a:b"} {
		if _, _, err := parseCommunities(wrong); err == nil {
			t.Errorf("%q was accepted", wrong)
		}
	}
}

func TestChooseNextHops(t *testing.T) {
	addr := netip.MustParseAddr
	both := Peer{Session: Session{IPv4: true, IPv6: true}}
	stable := func(all ...string) (link []linkAddr) {
		for _, a := range all {
			link = append(link, linkAddr{Addr: addr(a)})
		}
		return link
	}
	link := stable("fe80::1%eth0", "192.0.2.1", "2001:db8::1")
	for _, row := range []struct {
		name     string
		p        Peer
		peer     Open
		local    netip.Addr
		link     []linkAddr
		want     nextHops
		withheld string
	}{
		{"over IPv4", both, Open{IPv4: true, IPv6: true}, addr("192.0.2.1"), link, nextHops{addr("192.0.2.1"), addr("2001:db8::1")}, ""},
		{
			"over IPv4, link-local only", both,
			Open{IPv4: true, IPv6: true},
			addr("192.0.2.1"), link[:2],
			nextHops{addr("192.0.2.1"), addr("fe80::1")},
			"",
		},
		{"over IPv6", both, Open{IPv4: true, IPv6: true}, addr("2001:db8::1"), link, nextHops{addr("192.0.2.1"), addr("2001:db8::1")}, ""},
		{
			"over IPv6, RFC 8950", both,
			Open{IPv4: true, IPv6: true, ExtendedNextHop: true},
			addr("fe80::1%eth0"), link,
			nextHops{addr("fe80::1"), addr("fe80::1")},
			"",
		},
		{
			"over IPv6, no IPv4", both,
			Open{IPv4: true, IPv6: true},
			addr("fe80::1%eth0"), link[:1],
			nextHops{netip.Addr{}, addr("fe80::1")},
			"IPv4: no next hop: the interface of fe80::1 does not have an IPv4 address, " +
				"and the peer does not accept IPv6 next hops for IPv4 (RFC 8950)",
		},
		{
			"loopback", both,
			Open{IPv4: true, IPv6: true},
			addr("192.0.2.1"),
			stable("127.0.0.1", "::1", "192.0.2.1"),
			nextHops{v4: addr("192.0.2.1")},
			"IPv6: no next hop: the interface of 192.0.2.1 does not have an IPv6 address",
		},
		{
			"one-sided", both,
			Open{IPv4: true},
			addr("192.0.2.1"), link,
			nextHops{v4: addr("192.0.2.1")},
			"IPv6: the peer does not have the family enabled",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			h, withheld := chooseNextHops(row.p, row.peer, row.local, row.link, nextHops{})
			if h != row.want || withheld != row.withheld {
				t.Errorf("%v %q, not %v %q", h, withheld, row.want, row.withheld)
			}
		})
	}
}

// TestSelectNextHop: the next hop of the other family does not depend on the order of the
// addresses, and does not change while the interface has it.
func TestSelectNextHop(t *testing.T) {
	addr := netip.MustParseAddr
	all := []linkAddr{
		{Addr: addr("192.0.2.1")},
		{Addr: addr("fe80::1%eth0")},
		{Addr: addr("2001:db8::1"), unstable: true},
		{Addr: addr("2001:db8::2"), secondary: true},
		{Addr: addr("2001:db8::4")},
		{Addr: addr("2001:db8::3")},
	}
	for _, row := range []struct {
		name    string
		node    string // an address of the Node
		own     string // an address of a Service
		last    string
		without string // an address that the interface does not have
		want    string
	}{
		{"the lowest one with an unlimited lifetime", "", "", "", "", "2001:db8::3"},
		{"the Node's", "2001:db8::4", "", "", "", "2001:db8::4"},
		{"the Node's, with a lifetime", "2001:db8::2", "", "", "", "2001:db8::2"},
		{"the Node's, which is deprecated", "2001:db8::1", "", "", "", "2001:db8::3"},
		{"the Node's, on another interface", "2001:db8::9", "", "", "", "2001:db8::3"},
		{"the last one", "2001:db8::3", "", "2001:db8::4", "", "2001:db8::4"},
		{"the last one, which is deprecated now", "2001:db8::3", "", "2001:db8::1", "", "2001:db8::1"},
		{"the last one, which is gone", "", "", "2001:db8::4", "2001:db8::4", "2001:db8::3"},
		{"not one of a Service", "", "2001:db8::3", "", "", "2001:db8::4"},
		{"the last one, which is one of a Service now", "", "2001:db8::3", "2001:db8::3", "", "2001:db8::4"},
	} {
		p := Peer{Session: Session{IPv6: true}}
		if row.node != "" {
			p.NodeAddresses = []netip.Addr{addr("203.0.113.1"), addr(row.node)}
		}
		if row.own != "" {
			p.ServiceAddresses = []netip.Addr{addr(row.own)}
		}
		var last nextHops
		if row.last != "" {
			last.v6 = addr(row.last)
		}
		for range 2 {
			link := slices.DeleteFunc(slices.Clone(all), func(a linkAddr) bool { return a.String() == row.without })
			h, _ := chooseNextHops(p, Open{IPv6: true}, addr("192.0.2.1"), link, last)
			if h.v6 != addr(row.want) {
				t.Errorf("%s: %s, want %s", row.name, h.v6, row.want)
			}
			slices.Reverse(all)
		}
	}
}

// TestAddrsOfLink checks what the flags of the kernel mean.
func TestAddrsOfLink(t *testing.T) {
	of := func(index int, addr string, flags int) netlinkdump.Address {
		return netlinkdump.Address{Addr: netip.MustParseAddr(addr), LinkIndex: index, Flags: flags}
	}
	all := []netlinkdump.Address{
		of(1, "127.0.0.1", unix.IFA_F_PERMANENT), of(2, "192.0.2.1", unix.IFA_F_PERMANENT),
		of(2, "192.0.2.9", unix.IFA_F_PERMANENT|unix.IFA_F_SECONDARY), of(2, "2001:db8::1", unix.IFA_F_TEMPORARY),
		of(2, "2001:db8::2", unix.IFA_F_PERMANENT), of(2, "2001:db8::3", unix.IFA_F_MANAGETEMPADDR), of(2, "2001:db8::4", unix.IFA_F_TENTATIVE),
		of(2, "2001:db8::5", unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED),
		of(2, "fe80::1", unix.IFA_F_PERMANENT), of(3, "fe80::1", unix.IFA_F_PERMANENT), of(3, "2001:db8:3::1", unix.IFA_F_PERMANENT),
	}
	addr := netip.MustParseAddr
	want := []linkAddr{
		{addr("192.0.2.1"), false, false},
		{addr("192.0.2.9"), false, true},
		{addr("2001:db8::1"), true, true},
		{addr("2001:db8::2"), false, false},
		{addr("2001:db8::3"), false, true},
		{addr("2001:db8::4"), true, true},
		{addr("fe80::1"), false, false},
	}
	if got := addrsOfLink(all, 2); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := addrsOfLink(all, 3); len(got) != 2 {
		t.Errorf("on link 3: %v", got)
	}
}

// TestSelectSource: the source of connections to a directly connected peer is of the family and
// scope of the peer, and is the one of the last session as long as the interface has it. The
// order of preference is in TestSelectNextHop.
func TestSelectSource(t *testing.T) {
	addr := netip.MustParseAddr
	onLink := []linkAddr{
		{Addr: addr("192.0.2.9"), secondary: true},
		{Addr: addr("192.0.2.10")},
		{Addr: addr("169.254.1.1")},
		{Addr: addr("fe80::2")},
		{Addr: addr("fe80::1")},
		{Addr: addr("2001:db8::1"), unstable: true},
		{Addr: addr("2001:db8::3")},
		{Addr: addr("2001:db8::2")},
	}
	for _, row := range []struct {
		name, peer, node, last string
		onLink                 []linkAddr
		want                   netip.Addr
	}{
		{"IPv6", "2001:db8::fe", "", "", onLink, addr("2001:db8::2")},
		{"IPv6, an address of the Node", "2001:db8::fe", "2001:db8::3", "", onLink, addr("2001:db8::3")},
		{"IPv6, the last one", "2001:db8::fe", "2001:db8::2", "2001:db8::3", onLink, addr("2001:db8::3")},
		{"IPv6, the last one is gone", "2001:db8::fe", "2001:db8::2", "2001:db8::4", onLink, addr("2001:db8::2")},
		{"IPv6, the last one is of another family", "2001:db8::fe", "", "192.0.2.10", onLink, addr("2001:db8::2")},
		{"IPv6, temporary addresses only", "2001:db8::fe", "", "", onLink[:6], netip.Addr{}},
		{"link-local", "fe80::fe%eth0", "2001:db8::3", "", onLink, addr("fe80::1")},
		{"link-local, the last one", "fe80::fe%eth0", "", "fe80::2%eth0", onLink, addr("fe80::2")},
		{"IPv4", "192.0.2.254", "", "", onLink, addr("192.0.2.10")},
		{"IPv4, an address of the Node", "192.0.2.254", "192.0.2.9", "", onLink, addr("192.0.2.9")},
		{"IPv4, link-local", "169.254.1.2", "192.0.2.9", "", onLink, addr("169.254.1.1")},
		{"not directly connected", "203.0.113.1", "192.0.2.10", "192.0.2.10", nil, netip.Addr{}},
	} {
		p := Peer{Transport: Transport{Address: addr(row.peer)}}
		if row.node != "" {
			p.NodeAddresses = []netip.Addr{addr(row.node)}
		}
		var last netip.Addr
		if row.last != "" {
			last = addr(row.last)
		}
		if got := p.selectSource(row.onLink, last); got != row.want {
			t.Errorf("%s: %s, want %s", row.name, got, row.want)
		}
	}
}

func TestSecretsStayHidden(t *testing.T) {
	var log bytes.Buffer
	p := Peer{Name: "tor", Transport: Transport{Address: netip.MustParseAddr("192.0.2.1"), Password: "hunter2"}}
	logger := newTextLogger(&log)
	logger.Info("peer", "peer", p, "password", p.Password)
	for _, text := range []string{log.String(), dialError(p, io.EOF).Error()} {
		if bytes.Contains([]byte(text), []byte("hunter2")) {
			t.Errorf("shown in %s", text)
		}
	}
}
