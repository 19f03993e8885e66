package main

import (
	"fmt"
	"net"
	"strconv"

	apiserveroptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/fairlead-io/fairlead/cmd/health"
)

// listenSecurely sets and returns the listener of --secure-port, which serves metrics.
// The framework would end the process if another program on the host listens on the
// port. It returns nil if the flags leave the listener to the framework.
func listenSecurely(o *apiserveroptions.SecureServingOptionsWithLoopback) (*health.Listener, error) {
	if o.BindPort == 0 || o.PermitPortSharing || o.PermitAddressSharing {
		return nil, nil
	}
	legacyregistry.MustRegister(health.ListenFailures)
	address := net.JoinHostPort(o.BindAddress.String(), strconv.Itoa(o.BindPort))
	l, err := health.Listen("tcp", address, newLogger(), health.ListenFailures.Inc)
	if err != nil {
		return nil, fmt.Errorf("--bind-address, --secure-port: %w", err)
	}
	o.Listener = l
	return l, nil
}
