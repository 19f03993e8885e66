package l2

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// TestInterfacesInterrupted checks that Interfaces returns no error if the kernel's table
// changes while it is read. The kernel interrupts about as many reads by Interfaces as
// others, which are counted.
func TestInterfacesInterrupted(t *testing.T) {
	addPair := func(name string) error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "p"})
	}
	deletePair := func(name string) {
		if err := netlink.LinkDel(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}}); err != nil {
			t.Error(err)
		}
	}
	// A dump of many interfaces takes several messages, between which the table may change.
	for i := range 100 {
		name := fmt.Sprintf("old%d", i)
		if err := addPair(name); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { deletePair(name) })
	}
	interrupted := 0
	for deadline, i := time.Now().Add(testTimeout), 0; interrupted < 10; i++ {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d dumps were interrupted within %s", interrupted, i, testTimeout)
		}
		during := func(read func() error) error {
			name, added := fmt.Sprintf("new%d", i), make(chan error, 1)
			go func() { added <- addPair(name) }()
			err := read()
			if err := <-added; err != nil {
				t.Fatal(err)
			}
			deletePair(name)
			return err
		}
		if err := during(func() error { _, err := Interfaces(); return err }); err != nil {
			t.Fatal(err)
		}
		if err := during(func() error { _, err := netlink.LinkList(); return err }); errors.Is(err, netlink.ErrDumpInterrupted) {
			interrupted++
		}
	}
}
