// Command controller is fairlead-controller: a cloud-controller-manager with a
// service controller of its own, which assigns addresses to Services of type
// LoadBalancer.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/kubernetes/scheme"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/app"
	appconfig "k8s.io/cloud-provider/app/config"
	"k8s.io/cloud-provider/names"
	"k8s.io/cloud-provider/options"
	"k8s.io/component-base/cli"
	componentbaseconfig "k8s.io/component-base/config"
	genericcontrollermanager "k8s.io/controller-manager/app"
	managed "k8s.io/controller-manager/controller"
	"k8s.io/klog/v2"

	_ "golang.org/x/crypto/x509roots/fallback" // the image has no root certificates, and AWS's endpoints are verified by public ones
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"

	"github.com/fairlead-io/fairlead/config/client"
	"github.com/fairlead-io/fairlead/controller"
)

const name = "fairlead-controller"

func main() {
	stop := genericapiserver.SetupSignalContext()
	code, err := run(stop)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
	}
	os.Exit(code)
}

// leaderElection runs Fairlead's own leader election with the configuration of the
// framework.
type leaderElection struct {
	config componentbaseconfig.LeaderElectionConfiguration
	done   chan error // receives the result when the controller has stopped
}

func run(ctx context.Context) (exit int, err error) {
	o, err := options.NewCloudControllerManagerOptions()
	if err != nil {
		return 1, fmt.Errorf("default options: %w", err)
	}
	o.KubeCloudShared.CloudProvider.Name = "fairlead"
	o.Webhook, o.WebhookServing = nil, nil
	o.Generic.LeaderElection.ResourceName = name
	o.Generic.LeaderElection.ResourceNamespace = "fairlead-system"
	// The other replica acquires a released lease at its next attempt, after at
	// most 2.2 retry periods (leaderelection.JitterFactor).
	o.Generic.LeaderElection.RetryPeriod.Duration = 500 * time.Millisecond
	// API priority and fairness limits the rate, not the client.
	o.Generic.ClientConnection.QPS = -1
	o.ServiceController.ConcurrentServiceSyncs = 16

	e, f := &leaderElection{done: make(chan error, 1)}, &flags{}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	started := false
	constructors := map[string]app.ControllerInitFuncConstructor{
		names.ServiceLBController: {
			InitContext: app.ControllerInitContext{ClientName: name},
			Constructor: func(_ app.ControllerInitContext, cc *appconfig.CompletedConfig, _ cloudprovider.Interface) app.InitFunc {
				return func(_ context.Context, m genericcontrollermanager.ControllerContext) (managed.Interface, bool, error) {
					c, err := newController(cc, f)
					if err != nil {
						return nil, false, err
					}
					m.ControllerManagerMetrics.ControllerStarted(names.ServiceLBController)
					started = true
					go c.Watch(ctx)
					go func() {
						id := leaderIdentity()
						klog.InfoS("waiting to lead", "identity", id, "election", e.config.LeaderElect)
						e.done <- controller.RunElected(ctx, cc.Client, e.config, id, c.Run)
						cancel()
					}()
					return nil, true, nil
				}
			},
		},
	}
	initCloud := func(cc *appconfig.CompletedConfig) cloudprovider.Interface {
		// The framework's leader election does not release the lease on shutdown.
		// RunElected does, so the framework's own election is disabled.
		e.config = cc.ComponentConfig.Generic.LeaderElection
		cc.ComponentConfig.Generic.LeaderElection.LeaderElect = false
		return noCloud{}
	}
	cmd := app.NewCloudControllerManagerCommand(o, initCloud, constructors, names.CCMControllerAliases(), f.namedFlagSets(), ctx.Done())
	cmd.Use = name
	cmd.Long = "fairlead-controller assigns addresses to Services of type LoadBalancer.\n" +
		"It is a cloud-controller-manager with a service controller of its own."
	cmd.SilenceUsage = true
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		// The framework's default name is the same in all clusters. Two clusters in
		// one account with the same name would manage each other's load balancers.
		f.named = cmd.Flags().Changed("cluster-name") && o.KubeCloudShared.ClusterName != ""
		return f.validate()
	}
	exit = cli.Run(cmd)
	cancel()
	if started {
		err = <-e.done
	}
	if errors.Is(err, controller.ErrLostLease) {
		exit = 1
	}
	return exit, err
}

func newController(cc *appconfig.CompletedConfig, f *flags) (*controller.Controller, error) {
	fairlead, err := client.New(cc.Kubeconfig)
	if err != nil {
		return nil, err
	}
	log := slog.New(logr.ToSlogHandler(klog.Background()))
	policy := f.providerPolicy()
	if f.named {
		policy.Cluster = cc.ComponentConfig.KubeCloudShared.ClusterName
	}
	options := controller.Options{
		Client:    cc.Client,
		Fairlead:  fairlead,
		Informers: cc.SharedInformers,
		Events:    cc.EventBroadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: name}),
		Log:       log,
		Policy:    policy,
		Parallel:  int(cc.ComponentConfig.ServiceController.ConcurrentServiceSyncs),
		NodePorts: f.portRange,
		Cluster:   cc.ComponentConfig.KubeCloudShared.ClusterName,
		Resync:    f.resync,
	}
	if f.named {
		nodes := client.Source[*corev1.Node]{SharedIndexInformer: cc.SharedInformers.Core().V1().Nodes().Informer()}
		if options.Cloud, err = f.newCloud(options.Cluster, log, nodes.Objects); err != nil {
			return nil, err
		}
	}
	return controller.New(options)
}

// leaderIdentity returns an identity that is unique even among replicas on one host.
func leaderIdentity() string {
	host, err := os.Hostname()
	if err != nil {
		host = name
	}
	return host + "_" + string(uuid.NewUUID())
}
