package bgp

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
	"github.com/osrg/gobgp/v3/pkg/server"
)

const (
	ribHoldTime   = 0xffff // seconds; the connection to ourselves needs no watch
	joinTime      = 10 * time.Second
	joinRetry     = 2 * time.Millisecond
	startAttempts = 5
)

// Identifiers that only the two ends of a rib's inner session see.
var (
	ribID   = netip.MustParseAddr("192.0.2.1")
	innerID = netip.MustParseAddr("192.0.2.2")
)

// starting guards variables of GoBGP's package that every StartBgp writes and
// every server reads: a server starts while none of the others works.
var starting sync.RWMutex

// rib is a GoBGP server that makes UPDATE messages of one peer's routes. It has
// one neighbour, this process, over a loopback connection that is protected by
// a random password, and by random addresses in 127.0.0.0/8 where the kernel
// has no TCP MD5. Nothing that a peer sent ever gets into it.
//
// A rib is used by one goroutine.
type rib struct {
	server   *server.BgpServer
	listen   netip.AddrPort
	source   netip.Addr
	password Secret // empty where the kernel has no TCP MD5

	have map[netip.Prefix]route
	told telling
	// attributes of have, encoded: thousands of routes share few of them.
	encoded map[route][][]byte
}

func newRIB(log *slog.Logger) (*rib, error) {
	r := &rib{have: make(map[netip.Prefix]route), encoded: make(map[route][][]byte)}
	secret := make([]byte, 16)
	rand.Read(secret) // never fails
	r.password = Secret(hex.EncodeToString(secret))
	r.source = randomLoopback()
	if err := probeMD5(); err != nil {
		r.password = ""
		log.Warn("TCP MD5 was not available for the connection to GoBGP", "error", err)
	}
	var err error
	for range startAttempts { // another program may take the port first
		if r.listen, err = freePort(randomLoopback()); err != nil {
			continue
		}
		r.server = server.NewBgpServer(server.LoggerOption(bridge{log}))
		go r.server.Serve() // never returns: a server that is not used any more waits for another peer
		starting.Lock()
		err = r.server.StartBgp(context.Background(), &api.StartBgpRequest{Global: &api.Global{
			Asn: uint32(bgp.AS_TRANS), RouterId: ribID.String(),
			ListenPort: int32(r.listen.Port()), ListenAddresses: []string{r.listen.Addr().String()},
		}})
		starting.Unlock()
		if err == nil {
			return r, nil
		}
	}
	return nil, fmt.Errorf("start GoBGP: %w", err)
}

func randomLoopback() netip.Addr {
	a := [4]byte{127}
	rand.Read(a[1:]) // never fails
	a[3] |= 2        // neither 127.0.0.1 nor a broadcast address
	a[3] &= 0xfe
	return netip.AddrFrom4(a)
}

func freePort(a netip.Addr) (netip.AddrPort, error) {
	l, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer func() { _ = l.Close() }() // it was never used
	return l.Addr().(*net.TCPAddr).AddrPort(), nil
}

// set makes the routes of the families that have a next hop all that is told:
// adds and changes first, then removals. It stops early when ctx ends, and may
// then be called again. Routes whose attributes cannot be told are left out, and
// one of them is named in withheld.
func (r *rib) set(ctx context.Context, routes Routes, t telling) (withheld string, err error) {
	if r.told.localASN != t.localASN || r.told.peerASN != t.peerASN {
		if err := r.clear(); err != nil {
			return "", err
		}
	}
	r.told = t
	unfit := make(map[netip.Prefix]error)
	for prefix, attributes := range routes {
		want := route{attributes, t.hops.of(prefix)}
		if !want.hop.IsValid() || r.have[prefix] == want {
			continue
		}
		encoded, err := r.encode(want)
		if err != nil {
			unfit[prefix] = err
			continue
		}
		if err := r.add(ctx, prefix, want, encoded); err != nil {
			return "", err
		}
	}
	for prefix := range r.have {
		if _, ok := routes[prefix]; ok && unfit[prefix] == nil && t.hops.of(prefix).IsValid() {
			continue
		}
		if err := r.remove(ctx, prefix); err != nil {
			return "", err
		}
	}
	if len(unfit) > 0 {
		first := slices.SortedFunc(maps.Keys(unfit), netip.Prefix.Compare)[0]
		withheld = fmt.Sprintf("%d routes, such as %s: %s", len(unfit), first, unfit[first])
	}
	return withheld, nil
}

// encode makes a route's attributes, or finds those of a route with the same.
func (r *rib) encode(want route) ([][]byte, error) {
	if attributes, ok := r.encoded[want]; ok {
		return attributes, nil
	}
	attributes, err := encodeAttributes(want, r.told)
	if err != nil {
		return nil, err
	}
	if len(r.encoded) > len(r.have) { // of routes that are long gone
		clear(r.encoded)
	}
	r.encoded[want] = attributes
	return attributes, nil
}

func (r *rib) add(ctx context.Context, prefix netip.Prefix, want route, attributes [][]byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	path := path(prefix)
	path.PattrsBinary = attributes
	starting.RLock()
	defer starting.RUnlock()
	if _, err := r.server.AddPath(ctx, &api.AddPathRequest{Path: path}); err != nil {
		return fmt.Errorf("add %s to GoBGP: %w", prefix, err)
	}
	r.have[prefix] = want
	return nil
}

func (r *rib) remove(ctx context.Context, prefix netip.Prefix) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	starting.RLock()
	defer starting.RUnlock()
	gone := path(prefix)
	gone.IsWithdraw = true
	if err := r.server.DeletePath(ctx, &api.DeletePathRequest{Path: gone}); err != nil {
		return fmt.Errorf("remove %s from GoBGP: %w", prefix, err)
	}
	delete(r.have, prefix)
	return nil
}

// clear forgets all routes.
func (r *rib) clear() error {
	clear(r.have)
	clear(r.encoded)
	starting.RLock()
	defer starting.RUnlock()
	if err := r.server.DeletePath(context.Background(), &api.DeletePathRequest{}); err != nil {
		return fmt.Errorf("empty GoBGP: %w", err)
	}
	return nil
}

// join begins a session with GoBGP in the place of a peer that sent an OPEN, and
// returns its connection. All routes are told at once, then End-of-RIB.
func (r *rib) join(ctx context.Context, p Peer, peer Open) (*wire, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTime)
	defer cancel()
	open, err := innerOpen(p, peer)
	if err != nil {
		return nil, err
	}
	starting.RLock()
	defer starting.RUnlock() // GoBGP has read its table when we have its first UPDATE
	if err := r.server.AddPeer(ctx, &api.AddPeerRequest{Peer: r.neighbour(p, peer)}); err != nil {
		return nil, fmt.Errorf("add the peer to GoBGP: %w", err)
	}
	for {
		w, err := r.dial(ctx, open)
		if err == nil {
			return w, nil
		}
		// Not a failure at once: GoBGP turns connections away until its state
		// machine has left Idle.
		select {
		case <-ctx.Done():
			r.leave(nil)
			return nil, fmt.Errorf("connect to GoBGP: %w", err)
		case <-time.After(joinRetry):
		}
	}
}

func (r *rib) neighbour(p Peer, peer Open) *api.Peer {
	n := &api.Peer{
		Conf: &api.PeerConf{
			NeighborAddress: r.source.String(), LocalAsn: p.LocalASN, PeerAsn: peer.ASN,
			AuthPassword: string(r.password),
		},
		Transport: &api.Transport{PassiveMode: true},
		Timers:    &api.Timers{Config: &api.TimersConfig{HoldTime: ribHoldTime, KeepaliveInterval: ribHoldTime / 3}},
		// Makes GoBGP send End-of-RIB.
		GracefulRestart: &api.GracefulRestart{Enabled: true, RestartTime: 1},
		// Several hops, that is no TTL of 1, which would do here as well.
		EbgpMultihop: &api.EbgpMultihop{Enabled: true, MultihopTtl: 255},
	}
	for _, f := range routeFamilies(p.IPv4 && peer.IPv4, p.IPv6 && peer.IPv6) {
		afi, safi := bgp.RouteFamilyToAfiSafi(f)
		n.AfiSafis = append(n.AfiSafis, &api.AfiSafi{
			Config:            &api.AfiSafiConfig{Family: &api.Family{Afi: api.Family_Afi(afi), Safi: api.Family_Safi(safi)}, Enabled: true},
			MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: true}},
		})
	}
	return n
}

// innerOpen is what GoBGP gets to know of a peer's OPEN.
func innerOpen(p Peer, peer Open) ([]byte, error) {
	var caps []bgp.ParameterCapabilityInterface
	for _, f := range routeFamilies(p.IPv4 && peer.IPv4, p.IPv6 && peer.IPv6) {
		caps = append(caps, bgp.NewCapMultiProtocol(f))
	}
	if peer.FourOctetASN {
		caps = append(caps, bgp.NewCapFourOctetASNumber(peer.ASN))
	}
	caps = append(caps, bgp.NewCapGracefulRestart(false, false, 1, nil))
	return serializeOpen(peer.ASN, ribHoldTime*time.Second, innerID, caps)
}

func (r *rib) dial(ctx context.Context, open []byte) (*wire, error) {
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(r.source, 0))}
	d.SetMultipathTCP(false)
	if r.password != "" {
		d.Control = func(_, _ string, c syscall.RawConn) error { return setMD5(c, r.listen.Addr(), r.password) }
	}
	conn, err := d.DialContext(ctx, "tcp4", r.listen.String())
	if err != nil {
		return nil, err
	}
	w := newWire(conn)
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	err = greetRIB(w, open)
	if !stop() {
		err = errors.Join(err, ctx.Err())
	}
	if err != nil {
		_ = conn.Close() // the other error says it all
		return nil, err
	}
	return w, nil
}

// greetRIB does a peer's part until GoBGP sends its first UPDATE, and leaves
// that to be read.
func greetRIB(w *wire, open []byte) error {
	if _, _, err := w.read(); err != nil { // OPEN
		return err
	}
	if err := w.write(open, false); err != nil {
		return err
	}
	if err := w.write(keepalive, true); err != nil {
		return err
	}
	if kind, _, err := w.read(); err != nil || kind != msgKeepalive {
		return errors.Join(err, errors.New("GoBGP refused the session"))
	}
	_, err := w.in.Peek(headerLen)
	return err
}

// refresh has GoBGP send all routes again (RFC 2918).
func (r *rib) refresh(ctx context.Context) error {
	starting.RLock()
	defer starting.RUnlock()
	err := r.server.ResetPeer(ctx, &api.ResetPeerRequest{
		Address: r.source.String(), Soft: true, Direction: api.ResetPeerRequest_OUT,
	})
	if err != nil {
		return fmt.Errorf("refresh GoBGP: %w", err)
	}
	return nil
}

// leave ends the session with GoBGP. The routes stay for the next one.
func (r *rib) leave(w *wire) {
	if w != nil {
		_ = w.Close() // nothing is left to do if that fails
	}
	_ = r.server.DeletePeer(context.Background(), &api.DeletePeerRequest{Address: r.source.String()}) // there may be none
}

// ribs are GoBGP servers that no session uses: none can be ended.
type ribs struct {
	mu    sync.Mutex
	spare []*rib
}

func (rs *ribs) get(log *slog.Logger) (*rib, error) {
	rs.mu.Lock()
	if n := len(rs.spare); n > 0 {
		defer rs.mu.Unlock()
		r := rs.spare[n-1]
		rs.spare = rs.spare[:n-1]
		return r, nil
	}
	rs.mu.Unlock()
	return newRIB(log)
}

func (rs *ribs) put(r *rib) {
	if r.clear() != nil {
		return // a server that does not even forget is of no use
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.spare = append(rs.spare, r)
}
