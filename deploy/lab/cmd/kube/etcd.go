package main

import (
	"errors"
	"fmt"
	"net/url"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/embed"
)

// etcdCommand returns the command of a single-member etcd on loopback. Its data need
// not outlive the lab, so it does not sync to disk.
func etcdCommand() *cobra.Command {
	config := embed.NewConfig()
	var client, peer string
	cmd := &cobra.Command{
		Use:   "etcd",
		Short: "A single-member etcd without durability",
		RunE: func(cmd *cobra.Command, _ []string) error {
			clientURL, err := url.Parse(client)
			if err != nil {
				return fmt.Errorf("--listen-client-url: %w", err)
			}
			peerURL, err := url.Parse(peer)
			if err != nil {
				return fmt.Errorf("--listen-peer-url: %w", err)
			}
			config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{*clientURL}, []url.URL{*clientURL}
			config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{*peerURL}, []url.URL{*peerURL}
			config.InitialCluster = config.InitialClusterFromName(config.Name)
			config.UnsafeNoFsync = true
			config.LogLevel = "error"

			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			server, err := embed.StartEtcd(config)
			if err != nil {
				return fmt.Errorf("start etcd: %w", err)
			}
			defer server.Close()
			select {
			case <-ctx.Done():
				return nil
			case <-server.Server.StopNotify():
				return errors.New("etcd stopped unexpectedly")
			case err := <-server.Err():
				return fmt.Errorf("etcd: %w", err)
			}
		},
	}
	cmd.Flags().StringVar(&config.Dir, "data-dir", "", "directory of the data")
	cmd.Flags().StringVar(&client, "listen-client-url", "http://127.0.0.1:2379", "URL to serve clients on")
	cmd.Flags().StringVar(&peer, "listen-peer-url", "http://127.0.0.1:2380", "URL to serve peers on")
	return cmd
}
