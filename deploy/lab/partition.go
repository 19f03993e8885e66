package lab

import (
	"context"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"
)

// partitionTable is the table of nftables whose rules drop frames on the bridge of the LAN.
const partitionTable = "partition"

// Disconnect drops the frames from one host to another on the LAN, in this direction
// only, until Reconnect is called.
func (c *Cluster) Disconnect(ctx context.Context, from, to *Host) error {
	// By the port, so that broadcasts and multicasts are dropped as well.
	return c.dropFrames(ctx, "forward", from, "oifname", portName(c.Network.lan, to))
}

// DisconnectAPI drops the frames from a host to the API server, until Reconnect is called.
func (c *Cluster) DisconnectAPI(ctx context.Context, from *Host) error {
	return c.dropFrames(ctx, "input", from, "ether type", "ip")
}

// dropFrames drops the frames from a host in a hook that match.
func (c *Cluster) dropFrames(ctx context.Context, hook string, from *Host, match ...string) error {
	for _, command := range []string{
		"add table bridge " + partitionTable,
		fmt.Sprintf("add chain bridge %s %s { type filter hook %s priority 0; }", partitionTable, hook, hook),
		fmt.Sprintf("add rule bridge %s %s iifname %s %s drop", partitionTable, hook, portName(c.Network.lan, from), strings.Join(match, " ")),
	} {
		if _, err := c.controlPlane.Run(ctx, "env", "nft", command); err != nil {
			return fmt.Errorf("disconnect %s: %w", from.Name, err)
		}
	}
	return nil
}

// ReconnectLAN ends what Disconnect has begun.
func (c *Cluster) ReconnectLAN(ctx context.Context) error {
	if _, err := c.controlPlane.Run(ctx, "env", "nft", "flush chain bridge "+partitionTable+" forward"); err != nil {
		return fmt.Errorf("reconnect the hosts on the LAN: %w", err)
	}
	return nil
}

// Reconnect ends what Disconnect and DisconnectAPI have begun.
func (c *Cluster) Reconnect(ctx context.Context) error {
	for _, command := range []string{"add table bridge " + partitionTable, "delete table bridge " + partitionTable} {
		if _, err := c.controlPlane.Run(ctx, "env", "nft", command); err != nil {
			return fmt.Errorf("reconnect the hosts: %w", err)
		}
	}
	return nil
}

// portName returns the name of the bridge's port to which a host is connected.
func portName(bridge *netlink.Bridge, h *Host) string {
	return fmt.Sprintf("%.3s-%.11s", bridge.Name, h.Name) // names have 15 characters at most
}
