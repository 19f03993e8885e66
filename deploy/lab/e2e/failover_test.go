package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	lab "github.com/fairlead-io/fairlead/deploy/lab"
)

// TestFailover checks that another node takes an address over while the Node of the owner
// stays Ready: when the owner's speaker is killed, stands still, ends or is disconnected.
// The recovered node does not take it back at once, and never answers beside the new owner.
func TestFailover(t *testing.T) {
	stop := func(t *testing.T, node int) { cluster.Speakers[node].Signal(syscall.SIGSTOP) }
	resume := func(t *testing.T, node int) { cluster.Speakers[node].Signal(syscall.SIGCONT) }
	for _, row := range []struct {
		name    string
		fail    func(t *testing.T, node int)
		recover func(t *testing.T, node int)
	}{
		{"killed", func(_ *testing.T, node int) { cluster.Speakers[node].Kill() }, startSpeaker},
		{"ended", func(t *testing.T, node int) {
			if err := cluster.Speakers[node].Stop(); err != nil {
				t.Fatal(err)
			}
		}, startSpeaker},
		{"stopped", stop, resume}, // until another node answers
		{"stopped for 2 s", func(t *testing.T, node int) { stop(t, node); time.Sleep(2 * time.Second) }, resume},
		{"stopped for 60 s", func(t *testing.T, node int) { stop(t, node); time.Sleep(time.Minute) }, resume},
		{"disconnected", func(t *testing.T, node int) { setLink(t, node, false) }, func(t *testing.T, node int) {
			setLink(t, node, true)
			if err := cluster.RestoreRoutes(node); err != nil {
				t.Error(err)
			}
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			for _, addr := range failoverAddresses(t) {
				first := owner(t, addr, anyNode)
				observed(t, first)
				answers := watchAnswers(t, addr)
				began := time.Now()
				row.fail(t, first)
				next := owner(t, addr, func(node int) bool { return node != first })
				t.Logf("node %d answers for %s instead of node %d after %s", next+1, addr, first+1, time.Since(began).Round(time.Millisecond))
				recovered := time.Now()
				row.recover(t, first)
				observed(t, next)
				owner(t, addr, func(node int) bool { return node == next })
				reach(t, cluster.Client, url(addr, 8086))
				checkSilent(t, answers(), recovered, cluster.Nodes[next].MAC())
			}
		})
	}
}

// TestTwoNodesFail checks that the third node takes an address over if its owner and the first
// successor are powered off together.
func TestTwoNodesFail(t *testing.T) {
	for i, addr := range failoverAddresses(t) {
		first, successors := observedOwner(t, addr), []int(nil)
		eventually(t, "both other nodes are successors", func() (err error) {
			if successors, err = cluster.Successors(t.Context(), failoverServices[i], first); err == nil && len(successors) != 2 {
				err = fmt.Errorf("the successors are %v", successors)
			}
			return err
		})
		off := []int{first, successors[0]}
		t.Cleanup(func() {
			for _, node := range off {
				setLink(t, node, true)
			}
		})
		began := time.Now()
		for _, node := range off {
			setLink(t, node, false)
			cluster.Speakers[node].Kill()
		}
		owner(t, addr, func(node int) bool { return node == successors[1] })
		t.Logf("node %d answers for %s instead of nodes %d and %d after %s", successors[1]+1, addr, first+1, successors[0]+1,
			time.Since(began).Round(time.Millisecond))
		reach(t, cluster.Client, url(addr, 8086))
		for _, node := range off {
			setLink(t, node, true)
			if err := cluster.RestoreRoutes(node); err != nil {
				t.Fatal(err)
			}
			startSpeaker(t, node)
		}
		// They take their addresses back, so that the owner does not change any more.
		owner(t, addr, func(node int) bool { return node == first })
	}
}

// disconnectBoth drops the frames between a host and others in both directions.
func disconnectBoth(t *testing.T, host *lab.Host, others ...*lab.Host) {
	t.Helper()
	for _, other := range others {
		if other != host {
			disconnect(t, host, other)
			disconnect(t, other, host)
		}
	}
}

// disconnectAll drops the frames between all nodes.
func disconnectAll(t *testing.T, _ int) {
	t.Helper()
	disconnectBoth(t, cluster.Nodes[0], cluster.Nodes...)
	disconnectBoth(t, cluster.Nodes[1], cluster.Nodes[2])
}

// disconnectOwner drops the frames between a node and the other ones.
func disconnectOwner(t *testing.T, owner int) {
	t.Helper()
	disconnectBoth(t, cluster.Nodes[owner], cluster.Nodes...)
}

// TestPartition checks that an address has an owner while nodes cannot reach each other, which
// serves the clients that it can reach, and exactly one after the partition has healed.
func TestPartition(t *testing.T) {
	for _, row := range []struct {
		name  string
		cut   func(t *testing.T, owner int)
		moves bool // the client does not reach the owner
	}{
		{"owner is not heard", func(t *testing.T, owner int) {
			for _, other := range cluster.Nodes {
				if other != cluster.Nodes[owner] {
					disconnect(t, cluster.Nodes[owner], other)
				}
			}
		}, false},
		{"owner does not hear", func(t *testing.T, owner int) {
			for _, other := range cluster.Nodes {
				if other != cluster.Nodes[owner] {
					disconnect(t, other, cluster.Nodes[owner])
				}
			}
		}, false},
		{"owner from one node", func(t *testing.T, owner int) {
			disconnectBoth(t, cluster.Nodes[owner], cluster.Nodes[(owner+1)%3])
		}, false},
		{"owner from the other node", func(t *testing.T, owner int) {
			disconnectBoth(t, cluster.Nodes[owner], cluster.Nodes[(owner+2)%3])
		}, false},
		{"owner from all nodes", disconnectOwner, false},
		{"owner from all nodes and the client", func(t *testing.T, owner int) {
			disconnectOwner(t, owner)
			disconnectBoth(t, cluster.Nodes[owner], cluster.Client)
		}, true},
		{"all nodes", disconnectAll, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Cleanup(func() { reconnect(t) })
			for _, addr := range failoverAddresses(t) {
				first := owner(t, addr, anyNode)
				observed(t, first)
				answers := watchAnswers(t, addr)
				claims, err := cluster.Client.WatchClaims(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				row.cut(t, first)
				if row.moves {
					owner(t, addr, func(node int) bool { return node != first })
					reach(t, cluster.Client, url(addr, 8086))
				} else {
					// Longer than the takeover with BFD, and than the questions without it.
					time.Sleep(5 * time.Second)
				}
				healed := time.Now()
				reconnect(t)
				last := owner(t, addr, anyNode)
				observed(t, last)
				reach(t, cluster.Client, url(addr, 8086))
				checkOwners(t, addr, answers(), healed)
				eventually(t, "the client has the MAC of the owner", func() error {
					if claim, ok := claims.Claims()[addr]; ok && claim.MAC != cluster.Nodes[last].MAC() {
						return fmt.Errorf("the last announcement is from %s", claim.MAC)
					}
					return nil
				})
			}
		})
	}
}

// TestPartitionFromAPI checks which node announces an address while nodes have no contact with
// the API server. As long as the nodes reach each other on the LAN, it has one owner. If the
// node without contact is not Ready, the owner is a node with contact.
func TestPartitionFromAPI(t *testing.T) {
	setAPITimeouts(t, 1)
	one := func(owner int) []int { return []int{owner} }
	for _, row := range []struct {
		name     string
		cut      func(t *testing.T, owner int) // on the LAN
		noAPI    func(owner int) []int         // nodes without contact
		notReady bool                          // the owner, as the node lifecycle controller sets it
		moves    bool                          // from the owner
	}{
		{"owner, which is not Ready", nil, one, true, true},
		{"owner, also from all nodes", disconnectOwner, one, false, true},
		{"owner, also from all nodes, and not Ready", disconnectOwner, one, true, true},
		{"all nodes, also from each other", disconnectAll, func(int) []int { return []int{0, 1, 2} }, false, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			for _, addr := range failoverAddresses(t) {
				first := observedOwner(t, addr)
				answers := watchAnswers(t, addr)
				t.Cleanup(func() { reconnect(t); setReady(t, first, true) })
				logged := map[int]int{}
				if row.cut != nil {
					row.cut(t, first)
				}
				for _, node := range row.noAPI(first) {
					logged[node] = len(cluster.Speakers[node].ReadLog())
					if err := cluster.DisconnectAPI(t.Context(), cluster.Nodes[node]); err != nil {
						t.Fatal(err)
					}
				}
				for node, before := range logged {
					eventually(t, fmt.Sprintf("the speaker of node %d has no contact", node+1), func() error {
						if !strings.Contains(cluster.Speakers[node].ReadLog()[before:], "API server unreachable") {
							return errors.New("it has not logged that")
						}
						return nil
					})
				}
				if row.cut == nil {
					owner(t, addr, func(node int) bool { return node == first })
				}
				if row.notReady {
					setReady(t, first, false)
				}
				began := time.Now()
				if row.cut != nil {
					if err := cluster.ReconnectLAN(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				next := owner(t, addr, func(node int) bool { return (node != first) == row.moves })
				t.Logf("node %d answers for %s, after %s", next+1, addr, time.Since(began).Round(time.Millisecond))
				for range 10 {
					owner(t, addr, func(node int) bool { return node == next })
				}
				reach(t, cluster.Client, url(addr, 8086))
				checkOwners(t, addr, answers(), began)
				reconnect(t)
				setReady(t, first, true)
				observedOwner(t, addr)
			}
		})
	}
}

// setAPITimeouts sets after how many seconds without packets of the API server a speaker sends
// a ping, and after how many more without an answer it has no contact, until the test ends.
func setAPITimeouts(t *testing.T, seconds int) {
	t.Helper()
	set := func(idle, ping string) {
		_, err := cluster.Kubectl(context.Background(), "", "-n", "fairlead-system", "set", "env", "ds/fairlead-speaker",
			"HTTP2_READ_IDLE_TIMEOUT_SECONDS"+idle, "HTTP2_PING_TIMEOUT_SECONDS"+ping)
		if err != nil {
			t.Error(err)
		}
		for _, p := range cluster.Speakers {
			p.Kill()
		}
		for i := range cluster.Speakers {
			startSpeaker(t, i)
		}
	}
	value := fmt.Sprintf("=%d", seconds)
	set(value, value)
	t.Cleanup(func() { set("-", "-") })
}

// TestFailoverWithoutAPI checks that an address moves although the API server is down, and
// has one owner when it is up again.
func TestFailoverWithoutAPI(t *testing.T) {
	for _, addr := range failoverAddresses(t) {
		first := owner(t, addr, anyNode)
		observed(t, first)
		cluster.APIServer.Kill()
		cluster.Speakers[first].Kill()
		next := owner(t, addr, func(node int) bool { return node != first })
		if err := cluster.StartAPIServer(t.Context()); err != nil {
			t.Fatal(err)
		}
		startSpeaker(t, first)
		observed(t, next)
		owner(t, addr, func(node int) bool { return node == next })
	}
}

// TestFailoverByIPv6 checks that an address fails over by BFD over IPv6 if the nodes have no
// IPv4 subnet in common on the LAN.
func TestFailoverByIPv6(t *testing.T) {
	addr := failoverAddresses(t)[1]
	var before []int
	for i, node := range cluster.Nodes {
		before = append(before, len(cluster.Speakers[i].ReadLog()))
		t.Cleanup(func() { setSingleIP(t, node, false) })
		setSingleIP(t, node, true)
	}
	first := 0
	eventually(t, "all other nodes have a BFD session with the owner over IPv6", func() error {
		first = observedOwner(t, addr)
		peer := "peer=" + cluster.Nodes[first].Addr6.String() + " "
		for i, p := range cluster.Speakers {
			if i != first && !strings.Contains(p.ReadLog()[before[i]:], `msg="BFD session established" `+peer) {
				return fmt.Errorf("%s has not logged one", p.Name)
			}
		}
		return nil
	})
	began := time.Now()
	cluster.Speakers[first].Kill()
	next := owner(t, addr, func(node int) bool { return node != first })
	t.Logf("node %d answers for %s instead of node %d after %s", next+1, addr, first+1, time.Since(began).Round(time.Millisecond))
	reach(t, cluster.Client, url(addr, 8086))
	startSpeaker(t, first)
	observed(t, next)
}

// setSingleIP sets the prefix length of a node's IPv4 address on the LAN to 32, or back. The
// routes stay.
func setSingleIP(t *testing.T, node *lab.Host, single bool) {
	t.Helper()
	host, subnet := netip.PrefixFrom(node.Addr, 32), netip.PrefixFrom(node.Addr, 24)
	if !single {
		if err := errors.Join(node.AddAddress(subnet), node.RemoveAddress(host)); err != nil {
			t.Error(err)
		}
		return
	}
	if err := errors.Join(node.AddAddress(host), node.AddLANRoute(subnet.Masked()), node.RemoveAddress(subnet)); err != nil {
		t.Error(err)
	}
}

// TestFailoverWithoutBFD checks that an address moves if the nodes have no BFD sessions,
// because another process has the port or a firewall filters it, and that they report why.
func TestFailoverWithoutBFD(t *testing.T) {
	for _, row := range []struct {
		name, reason string
		begin        func(node *lab.Host) error
		end          func(node *lab.Host) error
	}{
		{"port in use", "UDP port 3784 is in use by another process", holdBFDPort, releaseBFDPort},
		{"port filtered", reasonFiltered, filterBFD, permitBFD},
	} {
		t.Run(row.name, func(t *testing.T) {
			addrs := failoverAddresses(t)
			t.Cleanup(func() {
				for i, node := range cluster.Nodes {
					if err := row.end(node); err != nil {
						t.Error(err)
					}
					cluster.Speakers[i].Kill()
					startSpeaker(t, i)
				}
			})
			for i, node := range cluster.Nodes {
				cluster.Speakers[i].Kill()
				if err := row.begin(node); err != nil {
					t.Fatal(err)
				}
				startSpeaker(t, i)
			}
			for _, addr := range addrs {
				first := 0
				eventually(t, "the nodes that observe the owner of "+addr.String()+" report the reason", func() error {
					first = owner(t, addr, anyNode)
					return filteredBy(t, first, row.reason)
				})
				cluster.Speakers[first].Kill()
				owner(t, addr, func(node int) bool { return node != first })
				startSpeaker(t, first)
			}
		})
	}
}

// TestBFDFiltered checks that no address moves when a firewall begins to drop BFD packets while
// sessions are Up, because the owner answers when it is asked, and that this is reported.
func TestBFDFiltered(t *testing.T) {
	for i, addr := range failoverAddresses(t) {
		first := observedOwner(t, addr)
		answers := watchAnswers(t, addr)
		t.Cleanup(func() {
			for _, node := range cluster.Nodes {
				if err := permitBFD(node); err != nil {
					t.Error(err)
				}
			}
		})
		for _, node := range cluster.Nodes {
			if err := filterBFD(node); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "the nodes that observe the owner of "+addr.String()+" report the reason", func() error {
			return filteredBy(t, first, reasonFiltered)
		})
		contains(t, doctor(t), "BFDFiltered", cluster.Nodes[first].Name+" and ", "is UDP port 3784 filtered between the two?")
		out, err := cluster.Fairlead(t.Context(), "explain", "svc", "default/"+failoverServices[i])
		if err != nil {
			t.Fatal(err)
		}
		contains(t, out, fmt.Sprintf("%s answers ARP or Neighbor Discovery on eth0 but not BFD", cluster.Nodes[first].Name))
		for _, node := range cluster.Nodes {
			if err := permitBFD(node); err != nil {
				t.Fatal(err)
			}
		}
		observed(t, first)
		owner(t, addr, func(node int) bool { return node == first })
		for _, a := range answers() {
			if a.MAC != cluster.Nodes[first].MAC() {
				t.Errorf("%s answered for %s, which %s has", a.MAC, addr, cluster.Nodes[first].Name)
				break
			}
		}
	}
}

const reasonFiltered = "is UDP port 3784 filtered between the nodes?"

// filterBFD makes the firewall of a node drop BFD packets.
func filterBFD(node *lab.Host) error {
	rules := "table inet nobfd { chain input { type filter hook input priority 0; udp dport 3784 drop; }; }"
	_, err := node.Run(context.Background(), "env", "nft", rules)
	return err
}

// permitBFD ends what filterBFD has begun.
func permitBFD(node *lab.Host) error {
	for _, command := range []string{"add table inet nobfd", "delete table inet nobfd"} {
		if _, err := node.Run(context.Background(), "env", "nft", command); err != nil {
			return err
		}
	}
	return nil
}

// bfdPorts are the sockets of holdBFDPort.
var bfdPorts = map[*lab.Host]net.PacketConn{}

// holdBFDPort opens a socket with the port of BFD on a node, as another program.
func holdBFDPort(node *lab.Host) error {
	return node.Do(func() (err error) {
		bfdPorts[node], err = net.ListenPacket("udp", ":3784")
		return err
	})
}

func releaseBFDPort(node *lab.Host) error {
	if conn := bfdPorts[node]; conn != nil {
		return conn.Close()
	}
	return nil
}

// filteredBy returns nil if all other nodes report that a node answers although there is no
// BFD session with it, with the reason.
func filteredBy(t *testing.T, node int, reason string) error {
	t.Helper()
	reports, _ := observersOf(t, node)
	if len(reports) != len(cluster.Nodes)-1 {
		return fmt.Errorf("%d nodes observe %s", len(reports), cluster.Nodes[node].Name)
	}
	for _, r := range reports {
		if message, _ := r["message"].(string); r["filtered"] != true || !strings.Contains(message, reason) {
			return fmt.Errorf("a node that observes %s reports %v", cluster.Nodes[node].Name, r)
		}
	}
	return nil
}

// failoverServices are the Services of failoverAddresses.
var failoverServices = []string{"taken-over", "taken-over-6"}

// failoverAddresses returns an announced address of each family, of Services that are
// deleted when the test ends.
func failoverAddresses(t *testing.T) []netip.Addr {
	t.Helper()
	v4, v6 := failoverServices[0], failoverServices[1]
	lanPool(t, v6, "fd13:242::c0/124")
	service(t, v4)
	service(t, v6, from(v6), func(s *corev1.Service) { s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol} })
	return []netip.Addr{announced(t, v4), announced(t, v6)}
}

// watchAnswers records which nodes answer for an address, until the returned function is
// called.
func watchAnswers(t *testing.T, addr netip.Addr) func() []lab.Answer {
	t.Helper()
	stop, err := cluster.Client.WatchAnswers(t.Context(), addr, 10*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	return stop
}

// maxInFlight is the number of answers that a node may send after it was stopped: it may
// have decided on one before.
const maxInFlight = 1

// checkSilent checks that no other host than the one with the MAC has answered since a time,
// except for one answer in flight.
func checkSilent(t *testing.T, answers []lab.Answer, since time.Time, mac string) {
	t.Helper()
	var others []lab.Answer
	for _, a := range answers {
		if a.At.After(since) && a.MAC != mac {
			others = append(others, a)
		}
	}
	if len(others) > 0 {
		node := slices.IndexFunc(cluster.Nodes, func(h *lab.Host) bool { return h.MAC() == others[0].MAC })
		t.Logf("%d answers by another node than the owner since its recovery, the first by node %d after %s", len(others), node+1, others[0].At.Sub(since))
	}
	if len(others) > maxInFlight {
		t.Error("the former owner has answered beside the new one")
	}
}

// checkOwners checks that the address had an answer at all times, and that the last time
// at which two nodes answered was soon after the partition had healed.
func checkOwners(t *testing.T, addr netip.Addr, answers []lab.Answer, healed time.Time) {
	t.Helper()
	const longest = 10 * time.Second
	if len(answers) == 0 {
		t.Errorf("no answer for %s", addr)
		return
	}
	for i := range answers[1:] {
		was, is := answers[i], answers[i+1]
		if is.At.Sub(was.At) > longest {
			t.Errorf("no answer for %s during %s", addr, is.At.Sub(was.At))
		}
		if is.MAC != was.MAC && is.At.Sub(healed) > longest {
			t.Errorf("%s and %s answered for %s %s after the partition had healed", was.MAC, is.MAC, addr, is.At.Sub(healed))
		}
	}
}

// disconnect drops the frames from one host to another.
func disconnect(t *testing.T, from, to *lab.Host) {
	t.Helper()
	if err := cluster.Disconnect(t.Context(), from, to); err != nil {
		t.Fatal(err)
	}
}

func reconnect(t *testing.T) {
	t.Helper()
	if err := cluster.Reconnect(context.Background()); err != nil {
		t.Error(err)
	}
}

func setLink(t *testing.T, node int, up bool) {
	t.Helper()
	if err := cluster.Nodes[node].SetLink(up); err != nil {
		t.Fatal(err)
	}
}

func startSpeaker(t *testing.T, node int) {
	t.Helper()
	if err := cluster.StartSpeaker(context.Background(), node); err != nil {
		t.Fatal(err)
	}
}

// observedOwner returns the node that answers for the address, once all other nodes observe this
// node by BFD.
func observedOwner(t *testing.T, addr netip.Addr) (node int) {
	t.Helper()
	eventually(t, "all other nodes observe the owner of "+addr.String(), func() error {
		node = owner(t, addr, anyNode)
		_, err := observersOf(t, node)
		return err
	})
	return node
}

// observed waits until other nodes observe a node by BFD, so that they notice its failure.
func observed(t *testing.T, node int) {
	t.Helper()
	eventually(t, fmt.Sprintf("all other nodes observe node %d", node+1), func() error {
		_, err := observersOf(t, node)
		return err
	})
}

// observersOf returns what the other nodes report about a node, and an error unless all of them
// have a BFD session with it that is Up.
func observersOf(t *testing.T, node int) (reports []map[string]any, err error) {
	t.Helper()
	all, err := cluster.Resource("speakers").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	up := 0
	for _, s := range all.Items {
		neighbors, _, err := unstructured.NestedSlice(s.Object, "status", "neighbors")
		if err != nil {
			return nil, err
		}
		for _, n := range neighbors {
			if n := n.(map[string]any); n["node"] == cluster.Nodes[node].Name {
				reports = append(reports, n)
				if n["bfd"] == "Up" {
					up++
				}
			}
		}
	}
	if up != len(cluster.Nodes)-1 {
		return reports, fmt.Errorf("%d nodes have a BFD session with %s that is Up: %v", up, cluster.Nodes[node].Name, reports)
	}
	return reports, nil
}
