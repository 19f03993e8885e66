package l2

import (
	"bytes"
	"encoding/hex"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mdlayher/ndp"
	"github.com/vishvananda/netlink"
)

// joinedGroups returns the groups that the interface is a member of.
func joinedGroups(t *testing.T, iface string) map[netip.Addr]bool {
	t.Helper()
	all, err := os.ReadFile("/proc/thread-self/net/igmp6")
	if err != nil {
		t.Fatal(err)
	}
	joined := map[netip.Addr]bool{}
	for line := range strings.Lines(string(all)) {
		fields := strings.Fields(line)
		group, err := hex.DecodeString(fields[2])
		if err != nil {
			t.Fatal(err)
		}
		if fields[1] == iface {
			joined[netip.AddrFrom16([16]byte(group))] = true
		}
	}
	return joined
}

// groupsOf returns the solicited-node groups of the addresses.
func groupsOf(t *testing.T, claims map[netip.Addr]Claim) map[netip.Addr]bool {
	t.Helper()
	groups := map[netip.Addr]bool{}
	for addr := range claims {
		group, err := ndp.SolicitedNodeMulticast(addr)
		if err != nil {
			t.Fatal(err)
		}
		groups[group] = true
	}
	return groups
}

// TestJoinInBackground checks that Set does not wait until thousands of groups are joined,
// that a later Set ends their joining, and that Close leaves all groups.
func TestJoinInBackground(t *testing.T) {
	const n = 10000 // to join them takes seconds
	f := familyTests[1]
	newVethPair(t, f.family)
	a := New(slog.Default(), func() {})
	defer a.Close()
	many, few := scatteredClaims(f, n, 1), scatteredClaims(f, 10, 2)
	ours := groupsOf(t, many)
	maps.Copy(ours, groupsOf(t, few))
	for addr, c := range many {
		if few[addr] = c; len(few) == 20 {
			break
		}
	}
	joined := func() map[netip.Addr]bool { // without the groups of the kernel
		all := joinedGroups(t, "vip0")
		maps.DeleteFunc(all, func(group netip.Addr, _ bool) bool { return !ours[group] })
		return all
	}
	set := func(claims map[netip.Addr]Claim) {
		t.Helper()
		if held, err := a.Set(t.Context(), claims); err != nil || len(held) != len(claims) {
			t.Fatalf("%d addresses held: %v", len(held), err)
		}
	}
	all := len(groupsOf(t, many))
	set(many)
	if got := len(joined()); got == all {
		t.Errorf("all %d groups are joined when Set returns", got)
	}
	eventually(t, "many groups are joined", func() bool { return len(joined()) > all/10 })
	set(few)
	want, most := groupsOf(t, few), len(joined())+len(few)
	eventually(t, "exactly the groups of the last Set are joined", func() bool {
		now := joined()
		if len(now) > most {
			t.Fatalf("%d groups are joined after the Set of %d addresses", len(now), len(few))
		}
		return maps.Equal(now, want)
	})
	set(many)
	eventually(t, "all groups are joined", func() bool { return len(joined()) == all })
	a.Close()
	if got := len(joined()); got > 0 {
		t.Errorf("%d groups are joined after Close", got)
	}
}

// TestJoinRetry checks that failed joins are logged and repeated after a wait, and do not
// keep others from being left.
func TestJoinRetry(t *testing.T) {
	f := familyTests[1]
	synctest.Test(t, func(t *testing.T) {
		const index = 7777
		var log bytes.Buffer
		g := newGroups(index, slog.New(slog.NewTextHandler(&log, nil)))
		done := make(chan struct{})
		go func() { defer close(done); g.run(t.Context()) }()
		g.set([]netip.Addr{f.vip, f.other, f.client})
		time.Sleep(groupRetryInterval * 5 / 2)
		synctest.Wait()
		if got := strings.Count(log.String(), "joining multicast groups failed, retrying\" groups=3 "); got != 3 {
			t.Errorf("%d failures are logged, want 3:\n%s", got, log.String())
		}
		late := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "late0", Index: index}}
		if err := netlink.LinkAdd(late); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = netlink.LinkDel(late) }()
		before := joinedGroups(t, "late0")
		time.Sleep(groupRetryInterval)
		synctest.Wait()
		if got := len(joinedGroups(t, "late0")) - len(before); got != 3 {
			t.Errorf("%d groups are joined after the retry, want 3", got)
		}
		g.set([]netip.Addr{f.vip})
		synctest.Wait()
		want := maps.Clone(before)
		want[netip.MustParseAddr("ff02::1:ff00:77")] = true
		if got := joinedGroups(t, "late0"); !maps.Equal(got, want) {
			t.Errorf("joined %v, want %v", got, want)
		}
	})
}
