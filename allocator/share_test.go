package allocator

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// ports makes a request share its addresses under key "k", to any node.
func ports(r Request, ports ...int32) Request {
	r.Share = Terms{Key: "k", Cluster: true}
	for _, p := range ports {
		r.Share.Ports = append(r.Share.Ports, Port{"TCP", p})
	}
	return r
}

func TestSharing(t *testing.T) {
	local := func(backends string) func(*Request) {
		return func(r *Request) { r.Share.Cluster, r.Share.Backends = false, backends }
	}
	departed := func(r *Request) { r.Departed = true }
	for _, row := range []struct {
		name     string
		pools    []Pool
		requests []Request
		want     map[string][]string
		says     string // in the message of b's refusal
	}{
		{
			"one key and other ports: one address",
			[]Pool{pool("p", "192.0.2.0/24")},
			[]Request{
				ports(request("a", "p"), 80), ports(request("b", "p"), 443, 8443),
				with(ports(request("c", "p"), 80), func(r *Request) { r.Share.Ports[0].Protocol = "UDP" }),
			},
			map[string][]string{"a": {"192.0.2.0=p"}, "b": {"192.0.2.0=p"}, "c": {"192.0.2.0=p"}},
			"",
		},
		{
			"one key and one port: the next address, which the third joins where it may",
			[]Pool{pool("p", "192.0.2.0/24")},
			[]Request{ports(request("a", "p"), 80), ports(request("b", "p"), 80), ports(request("c", "p"), 443), ports(request("d", "p"), 443)},
			map[string][]string{"a": {"192.0.2.0=p"}, "b": {"192.0.2.1=p"}, "c": {"192.0.2.0=p"}, "d": {"192.0.2.1=p"}},
			"",
		},
		{
			"another key, and none",
			[]Pool{pool("p", "192.0.2.0/24")},
			[]Request{ports(request("a", "p"), 80), with(ports(request("b", "p"), 443), func(r *Request) { r.Share.Key = "l" }), request("c", "p")},
			map[string][]string{"a": {"192.0.2.0=p"}, "b": {"192.0.2.1=p"}, "c": {"192.0.2.2=p"}},
			"",
		},
		{
			"Local shares with the same backends only",
			[]Pool{pool("p", "192.0.2.0/24")},
			[]Request{
				with(ports(request("a", "p"), 80), local("ns/app=a")), with(ports(request("b", "p"), 81), local("other/app=a")),
				with(ports(request("c", "p"), 82), local("ns/app=a")),
				with(ports(request("d", "p"), 83), local("")),
				with(ports(request("e", "p"), 84), local("")),
			},
			map[string][]string{"a": {"192.0.2.0=p"}, "b": {"192.0.2.1=p"}, "c": {"192.0.2.0=p"}, "d": {"192.0.2.2=p"}, "e": {"192.0.2.3=p"}},
			"",
		},
		{
			"Local does not join Cluster of other backends",
			[]Pool{pool("p", "192.0.2.0/32")},
			[]Request{ports(request("a", "p"), 80), with(ports(request("b", "p"), 81), local("ns/app=b"))},
			map[string][]string{"a": {"192.0.2.0=p"}, "b": {"PoolExhausted"}},
			"192.0.2.0 of Service ns/a cannot be shared: with externalTrafficPolicy Local, " +
				"only Services in the same namespace with the same selector can share",
		},
		{
			"an address by name, with a Service in the way that is not its first",
			[]Pool{pool("p", "192.0.2.0/24")},
			[]Request{
				ports(request("a", "p"), 80),
				asking(ports(request("b", "p"), 443), "192.0.2.0"),
				having(ports(request("c", "p"), 443), "192.0.2.0", "p"),
			},
			map[string][]string{"a": {"192.0.2.0=p"}, "b": {"AddressTaken"}, "c": {"192.0.2.0=p"}},
			"192.0.2.0 is assigned to Service ns/c: both use port 443/TCP",
		},
		{
			"an address by name, of one who shares with nobody",
			[]Pool{pool("p", "192.0.2.0/24")},
			[]Request{request("a", "p"), asking(ports(request("b", "p"), 443), "192.0.2.7"), having(request("c", "p"), "192.0.2.7", "p")},
			map[string][]string{"a": {"192.0.2.0=p"}, "b": {"AddressTaken"}},
			"192.0.2.7 is assigned to Service ns/c: it does not share its addresses",
		},
		{
			"of two who clash, the one loses that has departed from its terms, although it is older",
			[]Pool{pool("p", "192.0.2.0/24")},
			[]Request{
				with(having(ports(request("a", "p"), 80), "192.0.2.5", "p"), departed),
				having(ports(request("b", "p"), 80), "192.0.2.5", "p"), having(ports(request("c", "p"), 81), "192.0.2.5", "p"),
			},
			map[string][]string{"a": {"192.0.2.0=p"}, "b": {"192.0.2.5=p"}, "c": {"192.0.2.5=p"}},
			"",
		},
		{
			"who departs and clashes with nobody stays, also from the key",
			[]Pool{pool("p", "192.0.2.0/24")},
			[]Request{
				with(having(ports(request("a", "p"), 82), "192.0.2.5", "p"), departed), having(ports(request("b", "p"), 80), "192.0.2.5", "p"),
				with(having(request("c", "p"), "192.0.2.6", "p"), departed),
			},
			map[string][]string{"a": {"192.0.2.5=p"}, "b": {"192.0.2.5=p"}, "c": {"192.0.2.6=p"}},
			"",
		},
		{
			"who gives up the key loses the address to who shares it still",
			[]Pool{pool("p", "192.0.2.0/24")},
			[]Request{with(having(request("a", "p"), "192.0.2.5", "p"), departed), having(ports(request("b", "p"), 80), "192.0.2.5", "p")},
			map[string][]string{"a": {"192.0.2.0=p"}, "b": {"192.0.2.5=p"}},
			"",
		},
		{
			"a shared address out of its pool stays, and nobody joins it",
			[]Pool{pool("p", "192.0.2.0/30")},
			[]Request{
				having(ports(request("a", "p"), 80), "192.0.2.77", "p"),
				having(ports(request("b", "p"), 81), "192.0.2.77", "p"),
				ports(request("c", "p"), 82),
			},
			map[string][]string{"a": {"192.0.2.77=p (out)"}, "b": {"192.0.2.77=p (out)"}, "c": {"192.0.2.0=p"}},
			"",
		},
		{
			"nobody joins a reserved address, or one that it shall not hold",
			[]Pool{with(pool("p", "192.0.2.0/30"), reserving("192.0.2.2"))},
			[]Request{
				having(ports(request("a", "p"), 80), "192.0.2.2", "p"),
				ports(request("b", "p"), 81),
				with(ports(request("c", "p"), 82), releasing("192.0.2.0")),
			},
			map[string][]string{"a": {"192.0.2.2=p"}, "b": {"192.0.2.0=p"}, "c": {"192.0.2.1=p"}},
			"",
		},
		{
			"who was refused joins when the one in the way goes",
			[]Pool{pool("p", "192.0.2.0/32"), pool("q", "198.51.100.0/32")},
			[]Request{
				ports(request("a", "p"), 80), having(ports(request("b", "p"), 81), "192.0.2.0", "p"),
				with(having(ports(request("c", "q"), 80), "192.0.2.0", "p"), func(r *Request) { r.Pinned = true }),
			},
			map[string][]string{"a": {"192.0.2.0=p"}, "b": {"192.0.2.0=p"}, "c": {"198.51.100.0=q"}},
			"",
		},
		{
			"two adopters that share are adopted both",
			[]Pool{pool("p", "192.0.2.0/24")},
			[]Request{
				with(having(ports(request("a", "p"), 80), "192.0.2.5", ""), adopted),
				with(having(ports(request("b", "p"), 81), "192.0.2.5", ""), adopted),
				with(having(ports(request("c", "p"), 81), "192.0.2.5", ""), adopted),
			},
			map[string][]string{"a": {"192.0.2.5=p"}, "b": {"192.0.2.5=p"}, "c": {"ForeignStatus"}},
			"",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			got := allocate(row.pools, row.requests)
			for name, want := range row.want {
				if s := summary(got[key(name)]); !slices.Equal(s, want) {
					t.Errorf("%s: got %v, want %v: %v", name, s, want, got[key(name)].Missing)
				}
			}
			if m := got[key("b")].Missing; row.says != "" && (len(m) != 1 || !strings.Contains(m[0].Message, row.says)) {
				t.Errorf("b is told %v, want %q", m, row.says)
			}
		})
	}
}

func adopted(r *Request) {
	for i := range r.Have {
		r.Have[i].Evidence = Shown
	}
}

func releasing(addr string) func(*Request) {
	return func(r *Request) { r.Release = append(r.Release, netip.MustParseAddr(addr)) }
}

// TestManyPorts checks that the cost of a conflict does not grow with the product of
// the numbers of ports, which tenants choose. The bound is generous: comparing each
// port with each other one takes minutes.
func TestManyPorts(t *testing.T) {
	const count, bound = 30_000, 20 * time.Second
	of := func(protocol string) (all []Port) {
		for n := range int32(count) {
			all = append(all, Port{protocol, n})
		}
		return append(all, Port{"TCP", count}) // the only one that they have in common
	}
	holder := having(ports(request("a", "p")), "192.0.2.1", "p")
	holder.Share.Ports = of("TCP")
	requests := []Request{holder}
	for i := range 20 {
		r := ports(request(fmt.Sprintf("b%02d", i), "p"))
		r.Addrs, r.Share.Ports = []netip.Addr{netip.MustParseAddr("192.0.2.1")}, of("UDP")
		requests = append(requests, r)
	}
	start := time.Now()
	result := Allocate(NewPools([]Pool{pool("p", "192.0.2.0/31")}, nil), requests)
	if took := time.Since(start); took > bound {
		t.Errorf("it took %s", took)
	}
	for i, a := range result.Assignments[1:] {
		if len(a.Missing) != 1 || !strings.HasSuffix(a.Missing[0].Message, "both use port 30000/TCP") {
			t.Errorf("request %d: got %+v", i, a)
		}
	}
}
