package config

import (
	"fmt"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

func TestAllocation(t *testing.T) {
	a4, a6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	records := Records{{a4, "p"}, {a6, "q"}}
	for _, test := range []struct {
		name, text string
		want       Records
		own        bool
	}{
		{"own", FormatAllocation(records, "u1"), records, true},
		{"of another Service", FormatAllocation(records, "u2"), records, false},
		{"without a UID", "192.0.2.1=p,2001:db8::1=q", records, false},
		{"with an empty UID", "192.0.2.1=p,uid=", records[:1], false},
		{"with invalid parts", "junk,192.0.2.1=p,300.0.0.1=p,uid=u1", records[:1], true},
		{"with something after the UID", "192.0.2.1=p,uid=u1,2001:db8::1=q", records[:1], false},
		{"none", "", nil, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{UID: "u1", Annotations: map[string]string{
				v1alpha1.AnnotationAllocatedFrom: test.text,
			}}}
			got, own := ReadAllocation(s)
			if fmt.Sprint(got) != fmt.Sprint(test.want) || own != test.own {
				t.Errorf("got %v, %v", got, own)
			}
			if Recorded(s, a4) != test.own || (RecordedPool(s, a4) == "p") != test.own {
				t.Errorf("recorded: %v from %q", Recorded(s, a4), RecordedPool(s, a4))
			}
			if n := testing.AllocsPerRun(10, func() { OwnRecord(s, a4) }); n > 0 && test.name == "own" {
				t.Errorf("%v allocations for an address", n)
			}
			if s.UID = ""; Recorded(s, a4) {
				t.Error("a Service without a UID has a record of its own")
			}
		})
	}
	if text := FormatAllocation(nil, types.UID("u1")); text != "" {
		t.Errorf("without addresses: %q", text)
	}
}

func TestNodeAddresses(t *testing.T) {
	node := &corev1.Node{}
	for _, text := range []string{"192.0.2.1", "node-1", "192.0.2.1", "192.0.2.2", "2001:db8::1", "192.0.2.3", "192.0.2.4", "192.0.2.5", "::ffff:192.0.2.9"} {
		node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Address: text})
	}
	addrs, ignored := NodeAddresses(node)
	if got := fmt.Sprint(addrs, ignored); got != "[192.0.2.1 192.0.2.2 2001:db8::1 192.0.2.3 192.0.2.4] 1" {
		t.Error(got)
	}
}
