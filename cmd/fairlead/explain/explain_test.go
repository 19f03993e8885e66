package explain

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/cmd/fairlead/objects"
	"github.com/fairlead-io/fairlead/config"
	"github.com/fairlead-io/fairlead/config/fixture"
	"github.com/fairlead-io/fairlead/config/v1alpha1"
	"github.com/fairlead-io/fairlead/providers"
	"github.com/fairlead-io/fairlead/speaker/l2"
)

var serviceKey = types.NamespacedName{Namespace: "shop", Name: "web"}

// peered returns a cluster in which node-1 should advertise the address of
// shop/web to the peer tor, and its speaker reports the sessions.
func peered(sessions ...v1alpha1.Session) objects.Snapshot {
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: serviceKey.Namespace, Name: serviceKey.Name, UID: "u1",
			Annotations: map[string]string{v1alpha1.AnnotationAllocatedFrom: "192.0.2.10=lan,uid=u1"},
		},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}},
	}
	svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.10"}}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}}
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	named := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name} }
	pool := v1alpha1.IPAddressPoolSpec{Addresses: []v1alpha1.AddressRange{"192.0.2.10"}}
	peer := v1alpha1.BGPPeerSpec{MyASN: 64512, PeerASN: 64513, PeerAddress: "192.0.2.1"}
	c := objects.Collection{
		Objects: config.Objects{
			Pools:             []*v1alpha1.IPAddressPool{{ObjectMeta: named("lan"), Spec: pool}},
			BGPAdvertisements: []*v1alpha1.BGPAdvertisement{{ObjectMeta: named("all")}},
			BGPPeers:          []*v1alpha1.BGPPeer{{ObjectMeta: named("tor"), Spec: peer}},
		},
		Services: []*corev1.Service{svc},
		Nodes:    []*corev1.Node{node},
		Speakers: []*v1alpha1.Speaker{{ObjectMeta: named("node-1"), Status: v1alpha1.SpeakerStatus{Sessions: sessions}}},
	}
	return c.Snapshot(time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), providers.Policy{Mode: providers.BareMetal})
}

// TestRoutes checks that a route is shown as advertised only over an established
// session that has the address family, and otherwise with the problem of the session.
func TestRoutes(t *testing.T) {
	const advertised = "  * node-1  advertises to tor  192.0.2.10/32 local-pref 100\n"
	for _, row := range []struct {
		name    string
		session v1alpha1.Session
		want    string
	}{
		{"established", v1alpha1.Session{Peer: "tor", State: "Established", Families: []string{"IPv4"}}, advertised},
		{
			"family withheld",
			v1alpha1.Session{Peer: "tor", State: "Established", Families: []string{"IPv6"}, Withheld: "IPv4 is off"},
			"  - node-1  not advertised to tor (IPv4 is off)  ",
		},
		{"connecting", v1alpha1.Session{Peer: "tor", State: "Connect"}, "  - node-1  not advertised to tor (Connect)  "},
		{
			"last error",
			v1alpha1.Session{Peer: "tor", State: "Connect", LastError: "refused"},
			"  - node-1  not advertised to tor (refused)  ",
		},
		{
			"problem",
			v1alpha1.Session{Peer: "tor", State: "Connect", LastError: "refused", Problem: "wrong AS"},
			"  - node-1  not advertised to tor (wrong AS)  ",
		},
		{
			"another peer",
			v1alpha1.Session{Peer: "spine", State: "Established", Families: []string{"IPv4"}},
			"  - node-1  not advertised to tor (its speaker has not reported)  ",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			e, err := Service(peered(row.session), serviceKey)
			if err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			if err := e.Text(&out); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(out.String(), row.want) {
				t.Errorf("got\n%s\nwant\n%s", out.String(), row.want)
			}
			if r := e.Announcements[0].Nodes[0].Routes; len(r) != 1 || r[0].Advertised != (row.want == advertised) {
				t.Errorf("got %+v", r)
			}
		})
	}
}

// TestNodeAddress checks that the address of a node is shown as unannounced, with the
// reason on every node.
func TestNodeAddress(t *testing.T) {
	s := peered()
	fixture.WithNodeAddresses("192.0.2.10")(s.Speaker.Nodes[0])
	e, err := Service(s, serviceKey)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := e.Text(&out); err != nil {
		t.Fatal(err)
	}
	const want = "\nAnnouncement of 192.0.2.10 (pool lan)\n  - no node: NodeAddress: 192.0.2.10 is an address of Node node-1\n" +
		"  - node-1  NodeAddress  192.0.2.10 is an address of Node node-1\n"
	if !strings.Contains(out.String(), want) {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

// TestWithheld checks that a node is not shown as answering for an address if its speaker
// reports that it withholds the address.
func TestWithheld(t *testing.T) {
	s := peered()
	s.Speaker.Config, _ = config.Parse(config.Objects{
		Pools:            []*v1alpha1.IPAddressPool{fixture.Pool("lan", "192.0.2.10")},
		L2Advertisements: []*v1alpha1.L2Advertisement{{ObjectMeta: metav1.ObjectMeta{Name: "all"}}},
	})
	s.Speaker.Interfaces["node-1"] = []l2.Interface{{Name: "eth0", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}}}
	const answers = "  * node-1  rank 1, score 27.31  answers on eth0"
	const withheld = "  - node-1  rank 1, score 27.31  AddressConflict  another host has the address\n"
	for _, reason := range []v1alpha1.Reason{"", v1alpha1.NoSession, v1alpha1.AddressConflict} {
		s.Reports["node-1"] = v1alpha1.SpeakerStatus{Unannounced: []v1alpha1.AddressReason{
			{Reason: reason, Message: "another host has the address", Addresses: []string{"192.0.2.9-192.0.2.11"}},
		}}
		e, err := Service(s, serviceKey)
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		if err := e.Text(&out); err != nil {
			t.Fatal(err)
		}
		conflict := reason == v1alpha1.AddressConflict
		if strings.Contains(out.String(), answers) == conflict || strings.Contains(out.String(), withheld) != conflict {
			t.Errorf("%s: got\n%s", reason, out.String())
		}
	}
}

func TestNoService(t *testing.T) {
	_, err := Service(peered(), types.NamespacedName{Namespace: "shop", Name: "none"})
	if err == nil || err.Error() != "there is no Service shop/none" {
		t.Errorf("got %v", err)
	}
}
