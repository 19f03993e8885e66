// Command controller is fairlead-controller: a cloud-controller-manager whose
// service controller gives Services of type LoadBalancer their addresses.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
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
	cliflag "k8s.io/component-base/cli/flag"
	componentbaseconfig "k8s.io/component-base/config"
	genericcontrollermanager "k8s.io/controller-manager/app"
	managed "k8s.io/controller-manager/controller"
	"k8s.io/klog/v2"

	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"

	"github.com/fairlead-io/fairlead/config/client"
	"github.com/fairlead-io/fairlead/controller"
	"github.com/fairlead-io/fairlead/providers"
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

// elected is what the framework hands over to our own leader election.
type elected struct {
	election componentbaseconfig.LeaderElectionConfiguration
	provider string
	done     chan error // receives when the controller has stopped
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
	// A released lease is taken over at the other replica's next try, after at
	// most 2.2 retry periods (leaderelection.JitterFactor).
	o.Generic.LeaderElection.RetryPeriod.Duration = 500 * time.Millisecond
	// The API server's own priority and fairness is the limit, not the client.
	o.Generic.ClientConnection.QPS, o.Generic.ClientConnection.Burst = 1000, 2000
	o.ServiceController.ConcurrentServiceSyncs = 16

	e := &elected{provider: string(providers.Auto), done: make(chan error, 1)}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	started := false
	constructors := map[string]app.ControllerInitFuncConstructor{
		names.ServiceLBController: {
			InitContext: app.ControllerInitContext{ClientName: name},
			Constructor: func(_ app.ControllerInitContext, cc *appconfig.CompletedConfig, _ cloudprovider.Interface) app.InitFunc {
				return func(_ context.Context, m genericcontrollermanager.ControllerContext) (managed.Interface, bool, error) {
					c, err := newController(cc, e.provider)
					if err != nil {
						return nil, false, err
					}
					m.ControllerManagerMetrics.ControllerStarted(names.ServiceLBController)
					started = true
					go c.Watch(ctx)
					go func() {
						id := identity()
						klog.InfoS("waiting to lead", "identity", id, "election", e.election.LeaderElect)
						e.done <- controller.RunElected(ctx, cc.Client, e.election, id, c.Run)
						cancel()
					}()
					return nil, true, nil
				}
			},
		},
	}
	initCloud := func(cc *appconfig.CompletedConfig) cloudprovider.Interface {
		// The framework's election does not release the lease when it stops;
		// ours does, so the framework is told not to elect.
		e.election = cc.ComponentConfig.Generic.LeaderElection
		cc.ComponentConfig.Generic.LeaderElection.LeaderElect = false
		return noCloud{}
	}
	cmd := app.NewCloudControllerManagerCommand(o, initCloud, constructors, names.CCMControllerAliases(), e.flags(), ctx.Done())
	cmd.Use = name
	cmd.Long = "fairlead-controller gives Services of type LoadBalancer their addresses.\nIt is a cloud-controller-manager; its service controller is Fairlead's own."
	cmd.SilenceUsage = true
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if !slices.Contains(providers.Modes, providers.Mode(e.provider)) {
			return fmt.Errorf("--provider=%q: must be one of %s", e.provider, modes())
		}
		return nil
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

func (e *elected) flags() cliflag.NamedFlagSets {
	var sets cliflag.NamedFlagSets
	fs := sets.FlagSet("fairlead")
	fs.StringVar(&e.provider, "provider", e.provider, "Who serves Services without a loadBalancerClass: "+modes()+". auto: bare metal, unless the nodes are in a cloud or not initialized yet.")
	return sets
}

func modes() string {
	var all []string
	for _, m := range providers.Modes {
		all = append(all, string(m))
	}
	return strings.Join(all, ", ")
}

func newController(cc *appconfig.CompletedConfig, provider string) (*controller.Controller, error) {
	fairlead, err := client.New(cc.Kubeconfig)
	if err != nil {
		return nil, err
	}
	return controller.New(controller.Options{
		Client:    cc.Client,
		Fairlead:  fairlead,
		Informers: cc.SharedInformers,
		Events:    cc.EventBroadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: name}),
		Log:       slog.New(logr.ToSlogHandler(klog.Background())),
		Provider:  providers.Mode(provider),
		Parallel:  int(cc.ComponentConfig.ServiceController.ConcurrentServiceSyncs),
	})
}

// identity tells the replicas apart, also two on one host.
func identity() string {
	host, err := os.Hostname()
	if err != nil {
		host = name
	}
	return host + "_" + string(uuid.NewUUID())
}
