package aws

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/aws/smithy-go"

	"github.com/fairlead-io/fairlead/config/v1alpha1"
)

// callError is a failed call. Its text is the same for the same failure: it has no
// request ID.
type callError struct {
	action, code, message string
	cause                 error
}

// Error ends without the separator where AWS sent a code without a message.
func (f *callError) Error() string {
	return strings.TrimSuffix(f.action+": "+f.code+": "+f.message, ": ")
}

func (f *callError) Unwrap() error { return f.cause }

// explainError converts an error of the SDK into a callError.
func explainError(err error) error {
	f := &callError{cause: err}
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
		f.code, f.message = "no response", dial.Err.Error()
	// The SDK failed before or after the request, such as for missing credentials.
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

// isCode reports whether a call failed with one of the codes.
func isCode(err error, codes ...string) bool {
	var f *callError
	return errors.As(err, &f) && slices.Contains(codes, f.code)
}

// codeOf returns the value of the metric's label "code" for the result of one
// attempt, before explainError has converted it.
func codeOf(err error) string {
	var api smithy.APIError
	switch {
	case err == nil:
		return "OK"
	case errors.As(err, &api):
		return api.ErrorCode()
	}
	return "Unanswered"
}

// notFoundCodes are the codes of Elastic Load Balancing for what does not exist.
var notFoundCodes = []string{"LoadBalancerNotFound", "TargetGroupNotFound", "ListenerNotFound"}

// errInUse is the failure to delete an object that AWS still uses.
var errInUse = errors.New("still in use")

func nameTaken(kind, name string) error {
	return newRefusal(v1alpha1.NameTaken, "%s %s exists without the tags of this controller and is not changed", kind, name)
}

// reasonCodes has the codes of the EC2 and Elastic Load Balancing APIs that a user
// or administrator can resolve.
var reasonCodes = map[v1alpha1.Reason][]string{
	// The policy of the role or its credentials must be changed.
	v1alpha1.PermissionDenied: {
		"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthFailure", "OptInRequired",
		"InvalidClientTokenId", "SignatureDoesNotMatch", "UnrecognizedClientException", "ExpiredToken", "OperationNotPermitted",
	},
	// A quota of the account must be raised, or something else deleted.
	v1alpha1.QuotaExceeded: {
		"TooManyLoadBalancers", "TooManyListeners", "TooManyTargetGroups", "TooManyTargets", "TooManyTags", "TooManyCertificates",
		"TooManyRegistrationsForTargetId", "TooManyUniqueTargetGroupsPerLoadBalancer", "SecurityGroupLimitExceeded",
		"RulesPerSecurityGroupLimitExceeded", "SecurityGroupsPerInterfaceLimitExceeded",
		"AddressLimitExceeded", "NetworkInterfaceLimitExceeded",
	},
	v1alpha1.NoSubnet: {"InvalidSubnet", "SubnetNotFound", "InsufficientFreeAddressesInSubnet", "AvailabilityZoneNotSupported"},
	// An annotation refers to something that does not exist, or combines what AWS
	// does not support.
	v1alpha1.InvalidRequest: {
		"CertificateNotFound", "SSLPolicyNotFound", "AllocationIdNotFound", "InvalidAllocationID.NotFound", "InvalidSecurityGroup",
		"InvalidConfigurationRequest", "ValidationError", "InvalidParameterValue", "UnsupportedProtocol", "IncompatibleProtocols",
		"InvalidScheme", "ALPNPolicyNotSupported", "InvalidGroup.NotFound", "InvalidTags",
	},
}

// asRefusal converts a callError that a user or administrator must resolve into a
// Refusal. It returns other errors unchanged.
func asRefusal(err error) error {
	var f *callError
	if !errors.As(err, &f) {
		return err
	}
	for reason, codes := range reasonCodes {
		if slices.Contains(codes, f.code) {
			// The text does not contain a request ID (callError), so that the
			// condition does not change with each retry.
			return newRefusal(reason, "%s", f.Error())
		}
	}
	return err
}

func newRefusal(reason v1alpha1.Reason, format string, args ...any) *v1alpha1.Refusal {
	return &v1alpha1.Refusal{Reason: reason, Message: fmt.Sprintf(format, args...)}
}
