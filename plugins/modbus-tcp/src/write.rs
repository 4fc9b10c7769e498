//! From the platform to the device: RPC methods and shared attributes.
//!
//! ```text
//!  write, set   {"key":"setpoint","value":77}                                    a writable point, scaled like its reading
//!  read, get    {"key":"setpoint"}                                               the value now, not the last one polled
//!  writeRaw     {"register":"coil","address":3,"values":[true,false]}            coils 5/15, holding registers 6/16
//! ```

use moorline_plugin_sdk::{Host, RpcRequest, Value};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use crate::ModbusTcp;
use crate::configuration::Register;
use crate::frame::{Request, WRITE_BITS_MAX, WRITE_REGISTERS_MAX};
use crate::plan;
use crate::value::Sample;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Write {
    key: String,
    value: Json,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    key: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WriteRaw {
    register: Register,
    address: u16,
    values: Vec<Json>,
}

impl ModbusTcp {
    /// Does what an RPC asks.
    pub(crate) fn execute(
        &mut self,
        request: &RpcRequest,
        host: &mut dyn Host,
    ) -> Result<Json, String> {
        let device = self
            .devices
            .iter()
            .position(|device| device.name == request.device)
            .ok_or_else(|| format!("device {:?} is not on this connection", request.device))?;
        match request.method.as_str() {
            "write" | "set" => {
                let Write { key, value } = params(request)?;
                let point = self.point(device, &key)?;
                if !self.devices[device].points[point].writable {
                    return Err(format!("point {key:?} is not writable"));
                }
                self.write_point(device, point, &value, host)?;
                Ok(json!({ "success": true }))
            }
            "read" | "get" => {
                let Read { key } = params(request)?;
                let point = self.point(device, &key)?;
                self.read_point(device, point, host)
            }
            "writeRaw" => {
                let raw: WriteRaw = params(request)?;
                let unit = self.devices[device].unit;
                let written = raw_request(&raw)?;
                self.exchange(&written, unit, host)
                    .map_err(|failure| failure.to_string())?;
                Ok(json!({ "success": true }))
            }
            other => Err(format!(
                "method {other:?} is not one of write, set, read, get, writeRaw"
            )),
        }
    }

    fn point(&self, device: usize, key: &str) -> Result<usize, String> {
        let points = &self.devices[device].points;
        points
            .iter()
            .position(|point| point.key == key)
            .ok_or_else(|| format!("there is no point {key:?}"))
    }

    pub(crate) fn write_point(
        &mut self,
        device: usize,
        at: usize,
        value: &Json,
        host: &mut dyn Host,
    ) -> Result<(), String> {
        let point = &self.devices[device].points[at];
        let address = point.address;
        let request = if point.register == Register::Coil {
            let on = value
                .as_bool()
                .ok_or_else(|| format!("{value} is not true or false"))?;
            Request::WriteCoil { address, on }
        } else {
            match point.format.write(value, point.count)?.as_slice() {
                [value] => Request::WriteRegister {
                    address,
                    value: *value,
                },
                values => Request::WriteRegisters {
                    address,
                    values: values.to_vec(),
                },
            }
        };
        let unit = self.devices[device].unit;
        self.exchange(&request, unit, host)
            .map_err(|failure| failure.to_string())?;
        // The platform should see the new value soon, not a period later.
        let now_ms = host.monotonic_ms();
        for block in self
            .blocks
            .iter_mut()
            .filter(|block| block.device == device && block.points.contains(&at))
        {
            block.due_ms = now_ms;
        }
        Ok(())
    }

    fn read_point(
        &mut self,
        device: usize,
        at: usize,
        host: &mut dyn Host,
    ) -> Result<Json, String> {
        let block = plan::single(device, &self.devices[device], at, 0.0);
        let request = Request::Read {
            function: block.register.read_function(),
            address: block.address,
            count: block.count,
        };
        let unit = self.devices[device].unit;
        let data = self
            .exchange(&request, unit, host)
            .map_err(|failure| failure.to_string())?;
        let held = self.readings(&block, &data, 0.0);
        match held.samples.into_iter().next() {
            Some((_, Sample::Boolean(boolean))) => Ok(json!({ "success": true, "value": boolean })),
            Some((_, Sample::Integer(integer))) => Ok(json!({ "success": true, "value": integer })),
            Some((_, Sample::Double(double))) => Ok(json!({ "success": true, "value": double })),
            Some((_, Sample::Text(text))) => Ok(json!({ "success": true, "value": text })),
            None => Err("the registers hold no number".into()),
        }
    }
}

fn params<'a, T: Deserialize<'a>>(request: &'a RpcRequest) -> Result<T, String> {
    serde_json::from_str(&request.params)
        .map_err(|error| format!("params of {:?}: {error}", request.method))
}

fn raw_request(raw: &WriteRaw) -> Result<Request, String> {
    let address = raw.address;
    let many = match raw.register {
        Register::Coil => WRITE_BITS_MAX,
        Register::Holding => WRITE_REGISTERS_MAX,
        Register::Discrete | Register::Input => {
            return Err("only coils and holding registers can be written".into());
        }
    };
    if raw.values.is_empty() || raw.values.len() > many {
        return Err(format!("values must be 1 to {many}"));
    }
    if raw.register == Register::Coil {
        let values: Option<Vec<bool>> = raw.values.iter().map(Json::as_bool).collect();
        let values = values.ok_or("coils are true or false")?;
        return Ok(match values.as_slice() {
            [on] => Request::WriteCoil { address, on: *on },
            _ => Request::WriteCoils { address, values },
        });
    }
    let word = |value: &Json| value.as_u64().and_then(|value| u16::try_from(value).ok());
    let values: Option<Vec<u16>> = raw.values.iter().map(word).collect();
    let values = values.ok_or("registers are 0 to 65535")?;
    Ok(match values.as_slice() {
        [value] => Request::WriteRegister {
            address,
            value: *value,
        },
        _ => Request::WriteRegisters { address, values },
    })
}

/// A shared attribute's value, as an RPC would give it.
pub(crate) fn json(value: &Value) -> Json {
    match value {
        Value::Boolean(boolean) => json!(boolean),
        Value::Integer(integer) => json!(integer),
        Value::Double(double) => json!(double),
        Value::Text(text) => json!(text),
        Value::Json(document) => serde_json::from_str(document).unwrap_or(Json::Null),
    }
}
