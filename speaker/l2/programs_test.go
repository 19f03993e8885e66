package l2

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-io/fairlead/speaker/internal/netnstest"
)

// TestProgramsAgree checks what arping and ndisc6 report about an address that is
// announced, and about one that is not.
func TestProgramsAgree(t *testing.T) {
	t.Run("arping", func(t *testing.T) {
		program := findProgram(t, "arping", "arping")
		if version, _ := exec.Command(program, "-V").CombinedOutput(); !strings.Contains(string(version), "iputils") {
			netnstest.Skip(t, "%s is not the one of iputils, which has duplicate address detection", program)
		}
		f := familyTests[0]
		w := newWire(t, f)
		addKernelAddr(t, "lan0", netip.PrefixFrom(f.client, f.own.Bits()), 0)
		w.set("vip0", false)
		run := func(want bool, flags string, addr netip.Addr, wantOutput string) {
			t.Helper()
			args := append(strings.Fields(flags), "-I", "lan0", "-c", "2", "-w", "10", addr.String())
			out, err := exec.Command(program, args...).CombinedOutput()
			if succeeded := err == nil; succeeded != want || !strings.Contains(strings.ToLower(string(out)), wantOutput) {
				t.Errorf("arping %s: %v, want success: %t, and %q in\n%s", strings.Join(args, " "), err, want, wantOutput, out)
			}
		}
		at := fmt.Sprintf("reply from %s [%s]", f.vip, wireMAC)
		run(false, "-D", f.vip, at)                   // fails, because the address is in use
		run(true, "-D", f.other, "received 0 respon") // is free
		run(true, "-s "+f.client.String(), f.vip, at)
	})
	t.Run("ndisc6", func(t *testing.T) {
		program := findProgram(t, "ndisc6", "ndisc6")
		f := familyTests[1]
		w := newWire(t, f)
		addKernelAddr(t, "lan0", netip.PrefixFrom(f.client, f.own.Bits()), unix.IFA_F_NODAD)
		w.set("vip0", false)
		run := func(addr netip.Addr) string {
			out, err := exec.Command(program, "-n", "-1", "-s", f.client.String(), addr.String(), "lan0").CombinedOutput()
			return fmt.Sprintf("%s%v", out, err)
		}
		if got, want := run(f.vip), "link-layer address: "+strings.ToUpper(wireMAC.String()); !strings.Contains(got, want) {
			t.Errorf("got %s\nwant %s", got, want)
		}
		if got := run(f.other); !strings.Contains(got, "No response") {
			t.Errorf("got %s\nwant no response", got)
		}
	})
}

// TestKernelDetectsDuplicate checks that duplicate address detection of the kernel of
// another host fails for an address that is announced.
func TestKernelDetectsDuplicate(t *testing.T) {
	f := familyTests[1]
	w := newWire(t, f)
	w.set("vip0", false)
	for _, addr := range []netip.Addr{f.vip, f.other} {
		addKernelAddr(t, "lan0", netip.PrefixFrom(addr, f.own.Bits()), 0)
		var flags int
		eventually(t, "duplicate address detection has ended", func() bool {
			all, err := netlink.AddrList(w.byName("lan0"), netlink.FAMILY_V6)
			w.must(err)
			for _, a := range all {
				if a.IP.Equal(addr.AsSlice()) {
					flags = a.Flags
				}
			}
			return flags&unix.IFA_F_DADFAILED != 0 || flags&unix.IFA_F_TENTATIVE == 0
		})
		if failed := flags&unix.IFA_F_DADFAILED != 0; failed != (addr == f.vip) {
			t.Errorf("%s: duplicate=%t", addr, failed)
		}
	}
}

// findProgram returns the path of a program that is installed, or that the lab has
// downloaded with a package.
func findProgram(t testing.TB, name, pkg string) string {
	t.Helper()
	dirs := append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin", filepath.Join("../../.build", pkg, "usr/bin"))
	for _, dir := range dirs {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	netnstest.Skip(t, "%s is not installed", name)
	return ""
}
