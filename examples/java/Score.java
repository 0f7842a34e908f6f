// Scores a subscriber as a billing service would. docs/clients.md says how to compile and run it.
//
//     java Score HOST:PORT MODEL SUBSCRIBER

import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.NettyChannelBuilder;
import io.grpc.protobuf.ProtoUtils;
import io.interlock.gateway.v1.ScoreRequest;
import io.interlock.gateway.v1.ScoreResponse;
import io.interlock.gateway.v1.ScoringServiceGrpc;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;

public final class Score {
  // The service config of docs/clients.md: only UNAVAILABLE is repeated. In this form numbers are doubles.
  static final Map<String, Object> RETRY =
      Map.of("maxAttempts", 3.0, "initialBackoff", "0.02s", "maxBackoff", "0.2s", "backoffMultiplier", 2.0,
          "retryableStatusCodes", List.of("UNAVAILABLE"));
  static final Map<String, Object> CONFIG =
      Map.of("methodConfig", List.of(
          Map.of("name", List.of(Map.of("service", "gateway.v1.ScoringService")), "retryPolicy", RETRY)));
  static final Metadata.Key<com.google.rpc.Status> DETAILS =
      Metadata.Key.of("grpc-status-details-bin", ProtoUtils.metadataMarshaller(com.google.rpc.Status.getDefaultInstance()));

  public static void main(String[] arguments) throws InterruptedException {
    ManagedChannel channel = NettyChannelBuilder.forTarget(arguments[0])
        .usePlaintext()  // on loopback only; elsewhere TLS
        .defaultServiceConfig(CONFIG)
        .enableRetry()
        .keepAliveTime(65, TimeUnit.SECONDS)
        .build();
    try {
      ScoreRequest request =
          ScoreRequest.newBuilder().setModel(arguments[1]).putEntities("subscriber", arguments[2]).build();
      // Long, since this process connects and loads its classes first; in a running service, what its caller can wait.
      ScoreResponse reply =
          ScoringServiceGrpc.newBlockingStub(channel).withDeadlineAfter(5, TimeUnit.SECONDS).score(request);
      System.out.printf("score=%.6f decision=%s version=%d revision=%d prediction=%s flags=%s%n", reply.getScore(),
          reply.getDecision(), reply.getVersion(), reply.getRevision(), reply.getPredictionId(), reply.getFlagsList());
    } catch (StatusRuntimeException error) {
      System.out.printf("code=%s reason=%s message=%s%n", error.getStatus().getCode(), reason(error),
          error.getStatus().getDescription());
      System.exit(1);
    } finally {
      channel.shutdown().awaitTermination(5, TimeUnit.SECONDS);
    }
  }

  // What to program against; empty where the failure did not come from the gateway.
  static String reason(StatusRuntimeException error) {
    Metadata trailers = error.getTrailers();
    com.google.rpc.Status status = trailers == null ? null : trailers.get(DETAILS);
    if (status == null || status.getDetailsCount() == 0) {
      return "";
    }
    try {
      return status.getDetails(0).unpack(ErrorInfo.class).getReason();
    } catch (InvalidProtocolBufferException broken) {
      return "";
    }
  }
}
