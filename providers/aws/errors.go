package aws

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/aws/smithy-go"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// call makes a call of the SDK, and gives its error words.
func call[In, Out, Options any](ctx context.Context, do func(context.Context, *In, ...func(*Options)) (*Out, error), in *In) (*Out, error) {
	out, err := do(ctx, in)
	if err != nil {
		return out, explain(err)
	}
	return out, nil
}

// failure is a failed call. Its text is the same for the same failure: no
// request ID, which is in the log.
type failure struct {
	action, code, message string
	cause                 error
}

func (f *failure) Error() string {
	return strings.TrimSuffix(f.action+": "+f.code+": "+f.message, ": ")
}

func (f *failure) Unwrap() error { return f.cause }

// explain makes an error of the SDK one of ours.
func explain(err error) error {
	f := &failure{cause: err}
	var op *smithy.OperationError
	if errors.As(err, &op) {
		f.action = op.Operation()
	}
	var api smithy.APIError
	var dial *url.Error
	switch {
	case errors.As(err, &api):
		f.code, f.message = api.ErrorCode(), api.ErrorMessage()
	case errors.As(err, &dial):
		f.code, f.message = "no answer", dial.Err.Error()
	case op != nil:
		f.code, f.message = "failed", op.Unwrap().Error()
	default:
		f.code, f.message = "failed", err.Error()
	}
	if f.code == "UnauthorizedOperation" {
		// The rest of the message is an encoded text that differs each time.
		f.message, _, _ = strings.Cut(f.message, " Encoded authorization failure message")
	}
	return f
}

// is reports whether a call failed with one of the codes.
func isCode(err error, codes ...string) bool {
	var f *failure
	return errors.As(err, &f) && slices.Contains(codes, f.code)
}

// reasons are what a user or administrator can do something about, by code of
// the EC2 and Elastic Load Balancing APIs.
var reasons = map[v1alpha1.Reason][]string{
	v1alpha1.PermissionDenied: {
		"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthFailure", "OptInRequired",
		"InvalidClientTokenId", "SignatureDoesNotMatch", "UnrecognizedClientException", "ExpiredToken", "OperationNotPermitted",
	},
	v1alpha1.QuotaExceeded: {
		"TooManyLoadBalancers", "TooManyListeners", "TooManyTargetGroups", "TooManyTargets", "TooManyTags", "TooManyCertificates",
		"TooManyRegistrationsForTargetId", "TooManyUniqueTargetGroupsPerLoadBalancer", "SecurityGroupLimitExceeded",
		"RulesPerSecurityGroupLimitExceeded", "SecurityGroupsPerInterfaceLimitExceeded", "AddressLimitExceeded", "NetworkInterfaceLimitExceeded",
	},
	v1alpha1.NoSubnet: {"InvalidSubnet", "SubnetNotFound", "InsufficientFreeAddressesInSubnet", "AvailabilityZoneNotSupported"},
	v1alpha1.InvalidRequest: {
		"CertificateNotFound", "SSLPolicyNotFound", "AllocationIdNotFound", "InvalidAllocationID.NotFound", "InvalidSecurityGroup", "InvalidConfigurationRequest",
		"ValidationError", "InvalidParameterValue", "UnsupportedProtocol", "IncompatibleProtocols", "InvalidScheme", "ALPNPolicyNotSupported",
		"InvalidGroup.NotFound", "InvalidTags",
	},
}

// refused makes a failure that needs somebody to act a Refusal.
func refused(err error) error {
	var f *failure
	if !errors.As(err, &f) {
		return err
	}
	for reason, codes := range reasons {
		if slices.Contains(codes, f.code) {
			return fmt.Errorf("%w", &v1alpha1.Refusal{Reason: reason, Message: f.Error()})
		}
	}
	return err
}
