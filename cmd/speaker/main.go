// Sockets that listen for BGP peers need TCP MD5 and TTL security, which Linux
// does not support for Multipath TCP, Go's default for listeners.
//go:debug multipathtcp=0

// Command speaker is fairlead-speaker: it runs on every node and announces the
// addresses of Services to the network.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/klog/v2"

	_ "k8s.io/component-base/metrics/prometheus/restclient"

	"github.com/fairlead-io/fairlead/cmd/health"
	"github.com/fairlead-io/fairlead/cmd/metricsserver"
	"github.com/fairlead-io/fairlead/cmd/outage"
	"github.com/fairlead-io/fairlead/cmd/usage"
	"github.com/fairlead-io/fairlead/cmd/version"
	"github.com/fairlead-io/fairlead/config/client"
	"github.com/fairlead-io/fairlead/speaker"
)

const name = "fairlead-speaker"

// flags are the values of the command line flags.
type flags struct {
	namespace  string
	guard      bool
	drain      time.Duration
	node       string
	kubeconfig string
	socket     string
	probe      string
	metrics    string
	level      slog.LevelVar
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := newCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(usage.ExitStatus(err))
	}
}

func newCommand() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:           name,
		Short:         "Announce the addresses of Services to the network, from this node.",
		Version:       version.String(),
		Args:          usage.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.probe != "" {
				return health.Probe(cmd.Context(), f.socket, f.probe, cmd.OutOrStdout())
			}
			if err := f.validate(); err != nil {
				return usage.Error(err)
			}
			return run(cmd.Context(), &f)
		},
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage.Error(err) })
	cmd.Flags().StringVar(&f.node, "node-name", os.Getenv("NODE_NAME"), "Name of the Node that this speaker runs on. Default: $NODE_NAME.")
	cmd.Flags().StringVar(&f.namespace, "namespace", cmp.Or(os.Getenv("POD_NAMESPACE"), "fairlead-system"),
		"Namespace of Fairlead. Secrets with passwords of BGP peers are read from this namespace only. Default: $POD_NAMESPACE.")
	cmd.Flags().BoolVar(&f.guard, "loop-guard", true, "Drop packets to announced addresses that no Service port handles, so that they"+
		" do not loop between the node and its router. Requires CAP_NET_ADMIN.")
	cmd.Flags().DurationVar(&f.drain, "drain-delay", 5*time.Second, "Time between marking routes with GRACEFUL_SHUTDOWN (RFC 8326),"+
		" which makes BGP peers prefer other paths, and withdrawing them, when the node is excluded or drained.")
	cmd.Flags().StringVar(&f.kubeconfig, "kubeconfig", "", "Path to a kubeconfig. Default: the pod's service account.")
	cmd.Flags().StringVar(&f.socket, "health-socket", health.DefaultSocket, health.SocketHelp)
	cmd.Flags().StringVar(&f.probe, "probe", "", health.ProbeHelp)
	cmd.Flags().StringVar(&f.metrics, "metrics-address", ":10268", "Address, HOST:PORT, on which the metrics are served over TLS, to clients with a token"+
		" of an account that may get the non-resource URL /metrics. Without HOST, all addresses of the node. 0 disables it.")
	cmd.Flags().TextVar(&f.level, "log-level", &slog.LevelVar{}, "Minimum level of log lines: DEBUG, INFO, WARN or ERROR.")
	return cmd
}

// validate returns an error that names the flag with an invalid value.
func (f *flags) validate() error {
	if f.node == "" {
		return errors.New("--node-name: must be set, or the environment variable NODE_NAME, to the name of this Node")
	}
	if f.drain < 0 {
		return fmt.Errorf("--drain-delay=%s: must not be negative", f.drain)
	}
	if !f.servesMetrics() {
		return nil
	}
	// A name is invalid: to resolve it would delay the start.
	host, port, err := net.SplitHostPort(f.metrics)
	if _, invalid := netip.ParseAddr(host); host != "" && err == nil {
		err = invalid
	}
	if n, invalid := strconv.ParseUint(port, 10, 16); err == nil && (invalid != nil || n == 0) {
		err = errors.New("the port must be from 1 to 65535")
	}
	if err != nil {
		return fmt.Errorf("--metrics-address=%q: must be HOST:PORT with an IP address, :PORT, or 0: %w", f.metrics, err)
	}
	return nil
}

func (f *flags) servesMetrics() bool { return f.metrics != "" && f.metrics != "0" }

func run(ctx context.Context, f *flags) error {
	monitor := outage.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: &f.level}))
	log := slog.New(monitor.Handler())
	klog.SetSlogLogger(log)

	if err := outage.SetConnectionTimeouts(); err != nil {
		return fmt.Errorf("configure the API client: %w", err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", f.kubeconfig)
	if err != nil {
		return fmt.Errorf("configure the API client: %w", err)
	}
	config.UserAgent = name + "/" + version.String()
	config.QPS = -1 // API priority and fairness limits the rate, not the client
	config.Wrap(monitor.Wrap)
	fairlead, err := client.New(config)
	if err != nil {
		return err
	}
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = config.ContentType + ",application/json"
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("create API client: %w", err)
	}
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: kube.CoreV1().Events("")})

	events := broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: name, Host: f.node})
	s, err := speaker.New(speaker.Options{
		Node: f.node, Namespace: f.namespace, Version: version.String(), Client: kube, Fairlead: fairlead, Log: log,
		Guard: f.guard, Drain: f.drain, Stale: monitor.IsFailing, LastContact: monitor.LastContact,
		Events: events,
	})
	if err != nil {
		return err
	}
	var listener *health.Listener // of the metrics
	if f.servesMetrics() {
		legacyregistry.MustRegister(health.ListenFailures)
		legacyregistry.CustomMustRegister(s.StateCollector())
		if listener, err = health.Listen("tcp", f.metrics, log, health.ListenFailures.Inc); err != nil {
			return fmt.Errorf("--metrics-address: %w", err)
		}
	}
	tasks, ctx := errgroup.WithContext(ctx)
	tasks.Go(func() error { return s.Run(ctx) })
	if f.socket != "" {
		tasks.Go(func() error {
			return health.Serve(ctx, f.socket, health.Checks{NotReady: s.NotReady, Warnings: s.Warnings})
		})
	}
	if listener != nil {
		go listener.RecordFailure(ctx, events, health.OwnPod(), health.FailureInterval)
		tasks.Go(func() error {
			// Announcing does not depend on the metrics.
			if err := metricsserver.Serve(ctx, listener, kube, legacyregistry.Handler(), log); err != nil {
				log.Error("serving metrics failed", "error", err)
			}
			return nil
		})
	}
	err = tasks.Wait()
	log.Info("speaker stopped", "node", f.node)
	return err
}
