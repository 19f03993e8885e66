package plan

import "testing"

func TestParseDeletion(t *testing.T) {
	for _, row := range []struct {
		text string
		want Deletion // zero: an error
	}{
		{"ipaddresspool/lan", Deletion{kind: "IPAddressPool", name: "lan"}},
		{"BGPPeers/tor", Deletion{kind: "BGPPeer", name: "tor"}},
		{"community/a", Deletion{kind: "Community", name: "a"}},
		{"communities/a", Deletion{kind: "Community", name: "a"}},
		{"bfdprofiles/a", Deletion{kind: "BFDProfile", name: "a"}},
		{"node/n", Deletion{kind: "Node", name: "n"}},
		{"svc/web", Deletion{"Service", "shop", "web"}},
		{"service/web", Deletion{"Service", "shop", "web"}},
		{"services/team/web", Deletion{"Service", "team", "web"}},
		{"communitys/a", Deletion{}},
		{"speaker/n", Deletion{}},
		{"svc/a/b/c", Deletion{}},
		{"svc/a/", Deletion{}},
		{"node/a/b", Deletion{}},
		{"ipaddresspool/", Deletion{}},
		{"ipaddresspool", Deletion{}},
		{"", Deletion{}},
	} {
		got, err := ParseDeletion(row.text, "shop")
		if (err == nil) != (row.want != Deletion{}) || err == nil && got != row.want {
			t.Errorf("%q: got %+v, %v, want %+v", row.text, got, err, row.want)
		}
	}
}
