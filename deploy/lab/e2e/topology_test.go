package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

// topology is a way to connect a router with the nodes.
type topology struct {
	name string
	// connect starts a router and returns the spec of its BGPPeer, without the ASN of
	// the nodes and without BFD.
	connect func(t *testing.T, b *builder) (r *lab.Router, peer string)
	nodes   []int // that have a session
	linked  bool  // next hops are link-local
	far     bool  // next hops are another router
	no4     bool
	no6     bool
}

var topologies = []topology{
	{
		name: "eBGP, both families over IPv4", nodes: []int{0, 1, 2},
		connect: func(t *testing.T, b *builder) (*lab.Router, string) {
			r := b.router(t)
			b.start(t, r, lab.BGP{ASN: routerASN, Neighbors: lab.NodeNeighbors(cluster.Nodes, nodeASN)})
			return r, fmt.Sprintf("peerASN: %d, peerAddress: %s", routerASN, r.Addr)
		},
	},
	{
		name: "eBGP, both families over IPv6", nodes: []int{0, 1, 2},
		connect: func(t *testing.T, b *builder) (*lab.Router, string) {
			r := b.router(t)
			b.start(t, r, lab.BGP{ASN: routerASN, Neighbors: lab.NodeNeighbors(cluster.Nodes, nodeASN, over6,
				func(n *lab.Neighbor, _ *lab.Host) { n.ExtendedNextHop = true })})
			return r, fmt.Sprintf("dynamicASN: external, peerAddress: %q, holdTime: 3s", r.Addr6)
		},
		linked: true, // of IPv4
	},
	{
		name: "IPv6 only", nodes: []int{0, 1, 2}, no4: true,
		connect: func(t *testing.T, b *builder) (*lab.Router, string) {
			r := b.router(t)
			b.start(t, r, lab.BGP{ASN: routerASN, Neighbors: lab.NodeNeighbors(cluster.Nodes, nodeASN, over6,
				func(n *lab.Neighbor, _ *lab.Host) { n.OnlyIPv6 = true })})
			return r, fmt.Sprintf("peerASN: %d, peerAddress: %q, addressFamilies: [IPv6]", routerASN, r.Addr6)
		},
	},
	{
		name: "iBGP", nodes: []int{0, 1, 2},
		connect: func(t *testing.T, b *builder) (*lab.Router, string) {
			r := b.router(t)
			b.start(t, r, lab.BGP{ASN: nodeASN, Neighbors: lab.NodeNeighbors(cluster.Nodes, nodeASN)})
			return r, fmt.Sprintf("dynamicASN: internal, peerAddress: %s", r.Addr)
		},
	},
	{
		name: "a route reflector", nodes: []int{0, 1, 2},
		connect: func(t *testing.T, b *builder) (*lab.Router, string) {
			reflector, client := b.router(t), b.router(t)
			b.start(t, client, lab.BGP{ASN: nodeASN, Neighbors: []lab.Neighbor{{Address: reflector.Addr, ASN: nodeASN}}})
			clients := lab.NodeNeighbors(cluster.Nodes, nodeASN, func(n *lab.Neighbor, _ *lab.Host) { n.Client = true })
			b.start(t, reflector, lab.BGP{
				ASN:       nodeASN,
				Neighbors: append(clients, lab.Neighbor{Address: client.Addr, ASN: nodeASN, Client: true}),
			})
			return reflector, fmt.Sprintf("peerASN: %d, peerAddress: %s", nodeASN, reflector.Addr)
		},
	},
	{
		name: "eBGP over several hops", nodes: []int{0, 1, 2}, far: true,
		connect: func(t *testing.T, b *builder) (*lab.Router, string) {
			b.number--
			r, err := cluster.Network.AddFarRouter(fmt.Sprintf("%s-%d", b.daemon, b.number), b.number, fabric.bird)
			if err != nil {
				t.Fatal(err)
			}
			b.start(t, r, lab.BGP{ASN: routerASN, Neighbors: lab.NodeNeighbors(cluster.Nodes, nodeASN,
				func(n *lab.Neighbor, _ *lab.Host) { n.Hops, n.Local = 2, r.Addr })})
			return r, fmt.Sprintf("peerASN: %d, peerAddress: %s, ebgpMultiHop: true", routerASN, r.Addr)
		},
	},
	{
		name: "the router connects", nodes: []int{0, 1, 2},
		connect: func(t *testing.T, b *builder) (*lab.Router, string) {
			r := b.router(t)
			b.start(t, r, lab.BGP{ASN: routerASN, Neighbors: lab.NodeNeighbors(cluster.Nodes, nodeASN)})
			return r, fmt.Sprintf("peerASN: %d, peerAddress: %s, passive: true", routerASN, r.Addr)
		},
	},
	{
		name: "unnumbered", nodes: []int{0}, linked: true,
		connect: func(t *testing.T, b *builder) (*lab.Router, string) {
			r := b.router(t)
			link := fmt.Sprintf("up%d", b.number)
			if err := lab.Connect(cluster.Nodes[0], link, r.Host, link); err != nil {
				t.Fatal(err)
			}
			extra := ""
			if b.daemon == "bird" {
				extra = fmt.Sprintf("protocol radv { interface %q { max ra interval 4; min ra interval 3; default lifetime 0; }; }\n", link)
			}
			b.start(t, r, lab.BGP{ASN: routerASN, Neighbors: []lab.Neighbor{{Link: link, ASN: nodeASN}}, Extra: extra})
			return r, fmt.Sprintf("dynamicASN: external, interface: %s, nodeSelectors: [{matchLabels: {kubernetes.io/hostname: node-1}}]",
				link)
		},
	},
}

func over6(n *lab.Neighbor, h *lab.Host) { n.Address = h.Addr6 }

// builder creates routers that run one daemon.
type builder struct {
	daemon string
	number byte
}

func (b *builder) router(t *testing.T) *lab.Router {
	t.Helper()
	b.number--
	return addRouter(t, fmt.Sprintf("%s-%d", b.daemon, b.number), b.number)
}

func (b *builder) start(t *testing.T, r *lab.Router, c lab.BGP) {
	t.Helper()
	c.RouterID = r.Addr
	for i := range c.Neighbors {
		c.Neighbors[i].BFD = bfdEvery
	}
	start(t, r, c)
	t.Cleanup(r.Kill)
}

// TestTopologies checks the common topologies of racks, with BIRD and with FRR.
func TestTopologies(t *testing.T) {
	routers(t)
	service(t, "everywhere", func(s *corev1.Service) {
		policy := corev1.IPFamilyPolicyRequireDualStack
		s.Spec.IPFamilyPolicy = &policy
		s.Annotations["fairlead.io/address-pool"] = "bgp"
	})
	condition(t, "everywhere", "Announced", "Announced")
	var addrs []netip.Addr
	for _, in := range get(t, "everywhere").Status.LoadBalancer.Ingress {
		addrs = append(addrs, netip.MustParseAddr(in.IP))
	}
	if len(addrs) != 2 {
		t.Fatalf("the Service has %v, want an address of each family", addrs)
	}
	b := &builder{number: 190}
	for _, tt := range topologies {
		for _, daemon := range []string{"bird", "frr"} {
			t.Run(tt.name+"/"+daemon, func(t *testing.T) {
				b.daemon = daemon
				r, peer := tt.connect(t, b)
				manifest(t, fmt.Sprintf(`apiVersion: fairlead.io/v1alpha1
kind: BGPPeer
metadata: {name: topology}
spec: {myASN: %d, connectTime: 1s, bfdProfile: fast, %s}
---
apiVersion: fairlead.io/v1alpha1
kind: BGPAdvertisement
metadata: {name: topology}
spec: {ipAddressPools: [bgp], peers: [topology]}
`, nodeASN, peer))
				sessions(t, "topology", fmt.Sprintf("Established %d/%d", len(tt.nodes), len(tt.nodes)))
				for _, addr := range addrs {
					if addr.Is4() && tt.no4 || addr.Is6() && tt.no6 {
						continue
					}
					reached(t, r, addr, tt)
				}
				for _, n := range tt.nodes {
					node := cluster.Nodes[n].Name
					eventually(t, "BFD is Up at "+node, func() error {
						out, err := cluster.Kubectl(t.Context(), "", "get", "speaker", node, "-o",
							`jsonpath={.status.sessions[?(@.peer=="topology")]}`)
						if err == nil && !strings.Contains(out, `"bfd":"Up"`) {
							err = fmt.Errorf("it is %s", out)
						}
						return err
					})
				}
			})
		}
	}
}

// reached waits until the next hops of the address in the router are the nodes of the
// topology.
func reached(t *testing.T, r *lab.Router, addr netip.Addr, tt topology) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s has routes to %s by nodes %v", r.Name, addr, tt.nodes), func() error {
		hops, err := r.Routes(netip.PrefixFrom(addr, addr.BitLen()))
		if err != nil {
			return err
		}
		if tt.far && len(hops) > 0 && (hops[0] == fabric.bird.WAN || addr.Is6()) {
			return nil // as far as the kernel knows
		}
		if len(hops) != len(tt.nodes) {
			return fmt.Errorf("the next hops are %v", hops)
		}
		for _, hop := range hops {
			if hop.IsLinkLocalUnicast() {
				if !tt.linked {
					return fmt.Errorf("the next hops are %v", hops)
				}
				continue
			}
			known := false
			for _, n := range tt.nodes {
				known = known || hop == cluster.Nodes[n].Addr || hop == cluster.Nodes[n].Addr6
			}
			if !known {
				return fmt.Errorf("the next hops are %v", hops)
			}
		}
		return nil
	})
}
